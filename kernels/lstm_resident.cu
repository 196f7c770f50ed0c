// The recurrence of lstm.cu with W_hh in registers: read once, used for all T. For 100 and 50 units, which the networks
// have, and sigmoid gates. Same buffers and formulas. FLOPs 16 B T H² a pass. Grid (ceil(B / SEQ), 2), H / 2 times 4 threads
// in whole warps (100 units: 7 warps, so that a thread may have 255 registers: a multiprocessor's quarter holds two such warps),
// one barrier a step. Four neighbouring lanes share a pair of units:
//   forward   thread = 2 units x 4 gates x a quarter of the previous h;   backward   thread = 2 units x the H units of a gate
// 2 H weights a thread either way. The four slices meet by shuffles; slice c then finishes (unit c%2, sequence c/2) of the
// pair, keeps its cell in a register and writes h (forward) or the gate gradients (backward) to double-buffered shared memory.
// A thread holds its own unit and its own sequence first, the others second: which ones these are is decided by addresses when
// weights and h are loaded, so the sums are exchanged without selecting among registers.
// Variants: SEQ = 2 (half the blocks), SEQ = 1 (when blocks would leave multiprocessors idle).
// backward_<H>_<SEQ>_bf16 writes the gate gradients in bf16 beside the gates, not in f32 in their place.
// Deterministic: slices are added as (0+2) + (1+3); same bits for SEQ = 1 and 2.
// Source: Diamos et al. 2016, "Persistent RNNs".
#include "include/common.cuh"
#include "include/lstm_cell.cuh"

constexpr int SLICES = 4;

template <int H> struct Layout {
    static constexpr int works = SLICES * H / 2, threads = ceil_div(works, 32) * 32;
    static constexpr int part = ceil_div(H, SLICES); // previous h of one slice; the last one may end in zeros
    // An odd number of 16-byte pieces: aligned, and the four slices lie in different banks.
    static constexpr int part_pitch = (ceil_div(part, 4) | 1) * 4, state = SLICES * part_pitch;
    static constexpr int gate = ceil_div(H, 4) * 4, gates = 4 * gate; // gradients of a gate in shared memory, zeros behind H
    static_assert(H % 2 == 0 && part % 4 == 1, "pairs of units; a slice is pieces of 4 and one more");
};

// Which units and which slice of the sums this thread holds. Threads without work compute pair 0 again, so that whole warps
// shuffle, and own nothing.
template <int H, int SEQ> struct Seat {
    int slice, pair, unit, sequence;
    int odd, upper; // whether the own unit is the pair's second, whether the own sequence is the block's second
    bool owner;
    EPI_DEVICE_MEMBER Seat(int count) {
        const bool works = threadIdx.x < Layout<H>::works;
        slice = int(threadIdx.x) % SLICES;
        pair = works ? int(threadIdx.x) / SLICES : 0;
        unit = pair * 2 + slice % 2;
        sequence = slice / 2;
        odd = slice % 2;
        upper = SEQ == 2 ? sequence : 0;
        owner = works && sequence < min(SEQ, count);
    }
};

// partial[s*2+u]: this slice's share, own sequence (s = 0) and own unit (u = 0) first. Returns the whole sum of the own two.
template <int SEQ> EPI_DEVICE float gather_slices(const float (&partial)[SEQ * 2]) {
    float unit[2];
    EPI_UNROLL for (int u = 0; u < 2; ++u) unit[u] = partial[u] + __shfl_xor_sync(FULL_MASK, partial[(SEQ - 1) * 2 + u], 2);
    return unit[0] + __shfl_xor_sync(FULL_MASK, unit[1], 1);
}

template <int H, int SEQ>
EPI_DEVICE void lstm_resident_forward(const LstmParams& p, const float* weight0, const float* weight1, float* gates, float* cells,
                                      float* out, float* state) {
    using L = Layout<H>;
    constexpr int PART = L::part;
    const int direction = int(blockIdx.y), first = int(blockIdx.x) * SEQ;
    const Seat<H, SEQ> seat(p.batch - first);
    const float* weight = direction == 0 ? weight0 : weight1;
    float w[2][4][PART];
    EPI_UNROLL for (int u = 0; u < 2; ++u) {
        EPI_UNROLL for (int g = 0; g < 4; ++g) {
            EPI_UNROLL for (int k = 0; k < PART; ++k) {
                const bool exists = SLICES * PART == H || seat.slice * PART + k < H;
                const int row = g * H + seat.pair * 2 + (u ^ seat.odd);
                w[u][g][k] = exists ? weight[row * H + seat.slice * PART + k] : 0.0f;
            }
        }
    }
    for (int i = int(threadIdx.x); i < 2 * SEQ * L::state; i += L::threads) state[i] = 0.0f;

    const int b = first + seat.sequence, last = p.time - 1;
    float cell = 0.0f;
    float4 ahead = make_float4(0.0f, 0.0f, 0.0f, 0.0f); // W x of the next step
    // Where this step reads and writes: pointers that move with time.
    const int first_step = direction == 0 ? 0 : last, forth = direction == 0 ? 1 : -1;
    float* gates_now = gates + row_at(p, direction, b, first_step) * 4 * H + seat.unit;
    float* cell_now = cells + row_at(p, direction, b, first_step) * H + seat.unit;
    float* out_now = out + output_at(p, direction, b, first_step) + seat.unit;
    if (seat.owner) ahead = gates_from(gates_now, H);
    for (int step = 0; step < p.time; ++step) {
        __syncthreads();
        const float* previous = state + step % 2 * SEQ * L::state + seat.slice * L::part_pitch;
        float4 a = ahead;
        if (seat.owner && step < last) ahead = gates_from(gates_now + forth * 4 * H, H);

        float partial[4][SEQ * 2];
        EPI_UNROLL for (int s = 0; s < SEQ; ++s) {
            const float* own = previous + (s ^ seat.upper) * L::state;
            EPI_UNROLL for (int k = 0; k < PART - 1; k += 4) {
                const float4 h = *reinterpret_cast<const float4*>(own + k);
                EPI_UNROLL for (int u = 0; u < 2; ++u) {
                    EPI_UNROLL for (int g = 0; g < 4; ++g) {
                        float& sum = partial[g][s * 2 + u];
                        sum = k == 0 ? w[u][g][k] * h.x : fmaf(w[u][g][k], h.x, sum);
                        sum = fmaf(w[u][g][k + 1], h.y, sum);
                        sum = fmaf(w[u][g][k + 2], h.z, sum);
                        sum = fmaf(w[u][g][k + 3], h.w, sum);
                    }
                }
            }
            const float h = own[PART - 1];
            EPI_UNROLL for (int i = 0; i < 8; ++i)
                partial[i % 4][s * 2 + i / 4] = fmaf(w[i / 4][i % 4][PART - 1], h, partial[i % 4][s * 2 + i / 4]);
        }
        a.x += gather_slices<SEQ>(partial[0]);
        a.y += gather_slices<SEQ>(partial[1]);
        a.z += gather_slices<SEQ>(partial[2]);
        a.w += gather_slices<SEQ>(partial[3]);
        if (seat.owner) {
            const Cell now = lstm_cell(a, cell, false);
            cell = now.c;
            float* next = state + ((step + 1) % 2 * SEQ + seat.sequence) * L::state;
            next[seat.unit / PART * L::part_pitch + seat.unit % PART] = now.h;
            out_now[0] = now.h;
            if (p.save) {
                gates_to(now.gate, gates_now, H);
                cell_now[0] = now.c;
            }
        }
        gates_now += forth * 4 * H;
        cell_now += forth * H;
        out_now += forth * 2 * H;
    }
}

// The gradients of the gates go to `result`: in place of `gates`, or to a buffer like it in bf16, which is what products need.
template <int H, int SEQ, class T>
EPI_DEVICE void lstm_resident_backward(const LstmParams& p, const float* weight0, const float* weight1, const float* gates,
                                       const float* cells, const float* dout, T* result, float* dgates) {
    using L = Layout<H>;
    const int direction = int(blockIdx.y), first = int(blockIdx.x) * SEQ;
    const Seat<H, SEQ> seat(p.batch - first);
    const float* weight = direction == 0 ? weight0 : weight1;
    float w[2][L::gate];
    EPI_UNROLL for (int u = 0; u < 2; ++u)
        EPI_UNROLL for (int j = 0; j < L::gate; ++j)
            w[u][j] = j < H ? weight[(seat.slice * H + j) * H + seat.pair * 2 + (u ^ seat.odd)] : 0.0f;
    for (int i = int(threadIdx.x); i < 2 * SEQ * L::gates; i += L::threads) dgates[i] = 0.0f; // what nobody owns stays 0
    __syncthreads();

    const int b = first + seat.sequence, last = p.time - 1;
    float dstate = 0.0f, dcell = 0.0f, cell = 0.0f;
    Saved ahead = {};
    // Where this step reads and writes, from the last one on: pointers that move with time.
    const int first_step = direction == 0 ? last : 0, back = direction == 0 ? -1 : 1;
    const float* gates_now = gates + row_at(p, direction, b, first_step) * 4 * H + seat.unit;
    T* result_now = result + row_at(p, direction, b, first_step) * 4 * H + seat.unit;
    const float* cell_now = cells + row_at(p, direction, b, first_step) * H + seat.unit;
    const float* dout_now = dout + output_at(p, direction, b, first_step) + seat.unit;
    if (seat.owner) {
        cell = cell_now[0];
        ahead = saved_from(gates_now, dout_now, cell_now + back * H, last == 0, H);
    }
    for (int step = last; step >= 0; --step) {
        float* now = dgates + step % 2 * SEQ * L::gates;
        if (seat.owner) {
            const Saved saved = ahead;
            if (step > 0)
                ahead = saved_from(gates_now + back * 4 * H, dout_now + back * 2 * H, cell_now + back * 2 * H, step == 1, H);
            const CellGradient g = cell_gradient(saved.gate, cell, saved.previous, saved.dout + dstate, dcell, false);
            cell = saved.previous;
            dcell = g.dc;
            gates_to(g.da, now + seat.sequence * L::gates + seat.unit, L::gate);
            gates_to(g.da, result_now, H);
        }
        gates_now += back * 4 * H;
        result_now += back * 4 * H;
        cell_now += back * H;
        dout_now += back * 2 * H;
        __syncthreads();
        float partial[SEQ * 2];
        EPI_UNROLL for (int s = 0; s < SEQ; ++s) {
            EPI_UNROLL for (int j = 0; j < L::gate; j += 4) {
                const float* from = now + (s ^ seat.upper) * L::gates + seat.slice * L::gate + j;
                const float4 d = *reinterpret_cast<const float4*>(from);
                EPI_UNROLL for (int u = 0; u < 2; ++u) {
                    float& sum = partial[s * 2 + u];
                    sum = j == 0 ? w[u][j] * d.x : fmaf(w[u][j], d.x, sum);
                    sum = fmaf(w[u][j + 1], d.y, sum);
                    sum = fmaf(w[u][j + 2], d.z, sum);
                    sum = fmaf(w[u][j + 3], d.w, sum);
                }
            }
        }
        dstate = gather_slices<SEQ>(partial);
    }
}

#define RESIDENT(H, SEQ)                                                                                               \
    EPI_KERNEL(lstm_resident_forward_##H##_##SEQ, Layout<H>::threads, 1,                                               \
               (LstmParams p, const float* weight0, const float* weight1, float* gates, float* cells, float* out)) {   \
        EPI_SHARED(float, state, 2 * SEQ * Layout<H>::state);                                                          \
        lstm_resident_forward<H, SEQ>(p, weight0, weight1, gates, cells, out, state);                                  \
    }                                                                                                                  \
    EPI_KERNEL(lstm_resident_backward_##H##_##SEQ, Layout<H>::threads, 1,                                              \
               (LstmParams p, const float* weight0, const float* weight1, float* gates, const float* cells,            \
                const float* dout)) {                                                                                  \
        EPI_SHARED(float, dgates, 2 * SEQ * Layout<H>::gates);                                                         \
        lstm_resident_backward<H, SEQ>(p, weight0, weight1, gates, cells, dout, gates, dgates);                        \
    }                                                                                                                  \
    EPI_KERNEL(lstm_resident_backward_##H##_##SEQ##_bf16, Layout<H>::threads, 1,                                       \
               (LstmParams p, const float* weight0, const float* weight1, const float* gates, const float* cells,      \
                const float* dout, bf16* result)) {                                                                    \
        EPI_SHARED(float, dgates, 2 * SEQ * Layout<H>::gates);                                                         \
        lstm_resident_backward<H, SEQ>(p, weight0, weight1, gates, cells, dout, result, dgates);                       \
    }

RESIDENT(100, 1)
RESIDENT(100, 2)
RESIDENT(50, 1)
RESIDENT(50, 2)
