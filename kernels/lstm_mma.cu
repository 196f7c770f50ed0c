// The recurrence of lstm.cu for H = 100 on tensor cores: W_hh in registers as bf16, h and the gate gradients rounded to bf16 on
// their way from one step to the next; sums, cells and everything that leaves in f32. Same buffers and formulas, sigmoid gates.
// Few blocks, each with eight sequences: for several models on one card, which then run side by side.
// FLOPs 16 B T H² a pass. Grid (ceil(B / 8), 2). A warp has eight units: a lane finishes one of them for two sequences.
//   forward   13 warps, a product of [32 gates of its units, 112] with [112, 8 sequences] a step; one barrier
//   backward  14 warps; dh = W_hhᵀ da as 7 tiles of 16 units, each by two warps, half of the 400 gates each; two barriers
// mma.sync m16n8k16. Rows of a forward tile are gates i, f (g, o) of eight units, so that a lane gets all four of its unit.
// lstm_mma_backward_bf16 writes the gate gradients in bf16 beside the gates, not in f32 in their place.
// Deterministic. Source: Diamos et al. 2016, "Persistent RNNs"; PTX ISA for the fragments.
#include "include/lstm_cell.cuh"
#include "include/mma.cuh"

constexpr int H = 100, SEQUENCES = 8, UNITS = 8; // of a block, of a warp
constexpr int OWNERS = ceil_div(H, UNITS);       // warps with units
constexpr int STEPS = ceil_div(H, 16);           // products deep, forward
constexpr int PITCH = 120;                       // of h: 16-byte pieces, an odd number of them
constexpr int HALF = 13, TILES = 7;              // products deep, backward; tiles of units
constexpr int GATE_PITCH = 424;                  // of da: two halves and a piece
static_assert(STEPS * 16 <= PITCH && 2 * HALF * 16 >= 4 * H && 2 * HALF * 16 <= GATE_PITCH && TILES * 16 >= H, "all fits");

// What a lane finishes: a unit of two sequences, if these exist.
struct Cells {
    int unit, sequence; // the second sequence is the next one
    bool owns[2];
    EPI_DEVICE_MEMBER Cells(int batch, int first) {
        unit = warp_id() * UNITS + lane_id() / 4;
        sequence = first + lane_id() % 4 * 2;
        EPI_UNROLL for (int s = 0; s < 2; ++s) owns[s] = unit < H && sequence + s < batch;
    }
};

// Fragments of 16 N steps of eight rows of shared memory, k contiguous; `rows` is where the steps start.
template <int N> EPI_DEVICE void load_fragments(uint32_t (&b)[N][2], const bf16* rows, int pitch) {
    const bf16* at = rows + lane_id() % 8 * pitch + lane_id() / 8 * 8;
    EPI_UNROLL for (int k = 0; k + 1 < N; k += 2) {
        uint32_t two[4];
        ldmatrix<4>(two, at + k * 16);
        EPI_UNROLL for (int i = 0; i < 4; ++i) b[k + i / 2][i % 2] = two[i];
    }
    if constexpr (N % 2 == 1) ldmatrix<2>(b[N - 1], rows + lane_id() % 8 * pitch + lane_id() / 8 % 2 * 8 + (N - 1) * 16);
}

EPI_KERNEL(lstm_mma_forward, 32 * OWNERS, 1,
           (LstmParams p, const float* weight0, const float* weight1, float* gates, float* cells, float* out)) {
    EPI_SHARED(bf16, state, 2 * SEQUENCES * PITCH); // h, double-buffered; zeros behind H
    const int direction = int(blockIdx.y), first = int(blockIdx.x) * SEQUENCES;
    const Cells own(p.batch, first);
    const float* weight = direction == 0 ? weight0 : weight1;
    uint32_t w[2][STEPS][4];
    EPI_UNROLL for (int tile = 0; tile < 2; ++tile) {
        EPI_UNROLL for (int k = 0; k < STEPS; ++k) {
            EPI_UNROLL for (int r = 0; r < 4; ++r) {
                const int row = (tile * 2 + r % 2) * H + own.unit, column = k * 16 + lane_id() % 4 * 2 + r / 2 * 8;
                const bool exists = own.unit < H && column < H;
                const float* at = weight + row * H + column;
                w[tile][k][r] = exists ? to_bf16x2(at[0], at[1]).bits : 0;
            }
        }
    }
    for (int i = int(threadIdx.x); i < 2 * SEQUENCES * PITCH; i += int(blockDim.x)) state[i] = to_bf16(0.0f);

    const int first_step = direction == 0 ? 0 : p.time - 1, forth = direction == 0 ? 1 : -1;
    float *gates_now[2], *cell_now[2], *out_now[2]; // pointers that move with time
    float4 ahead[2];                                // W x of the next step
    float cell[2] = {0.0f, 0.0f};
    EPI_UNROLL for (int s = 0; s < 2; ++s) {
        const size_t row = row_at(p, direction, own.sequence + s, first_step);
        gates_now[s] = gates + row * 4 * H + own.unit;
        cell_now[s] = cells + row * H + own.unit;
        out_now[s] = out + output_at(p, direction, own.sequence + s, first_step) + own.unit;
        ahead[s] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (own.owns[s]) ahead[s] = gates_from(gates_now[s], H);
    }
    for (int step = 0; step < p.time; ++step) {
        __syncthreads();
        float acc[2][4]; // gates i, f and g, o: of the first sequence, of the second
        EPI_UNROLL for (int s = 0; s < 2; ++s) {
            acc[0][s] = ahead[s].x;
            acc[0][2 + s] = ahead[s].y;
            acc[1][s] = ahead[s].z;
            acc[1][2 + s] = ahead[s].w;
            if (own.owns[s] && step + 1 < p.time) ahead[s] = gates_from(gates_now[s] + forth * 4 * H, H);
        }
        uint32_t h[STEPS][2];
        load_fragments(h, state + step % 2 * SEQUENCES * PITCH, PITCH);
        EPI_UNROLL for (int k = 0; k < STEPS; ++k)
            EPI_UNROLL for (int tile = 0; tile < 2; ++tile) mma_bf16(acc[tile], w[tile][k], h[k]);
        bf16* next = state + (step + 1) % 2 * SEQUENCES * PITCH + own.unit;
        Cell both[2];
        EPI_UNROLL for (int s = 0; s < 2; ++s) {
            both[s] = lstm_cell(make_float4(acc[0][s], acc[0][2 + s], acc[1][s], acc[1][2 + s]), cell[s], false);
            cell[s] = both[s].c;
        }
        EPI_UNROLL for (int s = 0; s < 2; ++s) {
            const Cell& now = both[s];
            if (own.owns[s]) {
                next[(own.sequence + s - first) * PITCH] = to_bf16(now.h);
                out_now[s][0] = now.h;
                if (p.save) {
                    gates_to(now.gate, gates_now[s], H);
                    cell_now[s][0] = now.c;
                }
            }
            gates_now[s] += forth * 4 * H;
            cell_now[s] += forth * H;
            out_now[s] += forth * 2 * H;
        }
    }
}

// The gradients of the gates go to `result`: in place of `gates`, or to a buffer like it in bf16, which is what products need.
template <class T>
EPI_DEVICE void lstm_mma_backward_of(const LstmParams& p, const float* weight0, const float* weight1, const float* gates,
                                     const float* cells, const float* dout, T* result, bf16* dgates, float* dstate) {
    const int direction = int(blockIdx.y), first = int(blockIdx.x) * SEQUENCES;
    const Cells own(p.batch, first);
    const float* weight = direction == 0 ? weight0 : weight1;
    const int tile = warp_id() % TILES, half = warp_id() / TILES; // of the products
    uint32_t w[HALF][4];
    EPI_UNROLL for (int k = 0; k < HALF; ++k) {
        EPI_UNROLL for (int r = 0; r < 4; ++r) {
            const int unit = tile * 16 + lane_id() / 4 + r % 2 * 8;
            const int row = (half * HALF + k) * 16 + lane_id() % 4 * 2 + r / 2 * 8;
            const bool exists = unit < H && row < 4 * H;
            const float* at = weight + row * H + unit;
            w[k][r] = exists ? to_bf16x2(at[0], at[H]).bits : 0;
        }
    }
    for (int i = int(threadIdx.x); i < SEQUENCES * GATE_PITCH; i += int(blockDim.x)) dgates[i] = to_bf16(0.0f);
    for (int i = int(threadIdx.x); i < 2 * TILES * 16 * SEQUENCES; i += int(blockDim.x)) dstate[i] = 0.0f;
    __syncthreads();

    const int first_step = direction == 0 ? p.time - 1 : 0, back = direction == 0 ? -1 : 1;
    const float *gates_now[2], *cell_now[2], *dout_now[2];
    T* result_now[2];
    float cell[2], dcell[2];
    Saved ahead[2] = {};
    EPI_UNROLL for (int s = 0; s < 2; ++s) {
        const size_t row = row_at(p, direction, own.sequence + s, first_step);
        gates_now[s] = gates + row * 4 * H + own.unit;
        result_now[s] = result + row * 4 * H + own.unit;
        cell_now[s] = cells + row * H + own.unit;
        dout_now[s] = dout + output_at(p, direction, own.sequence + s, first_step) + own.unit;
        cell[s] = dcell[s] = 0.0f;
        if (own.owns[s]) {
            cell[s] = cell_now[s][0];
            ahead[s] = saved_from(gates_now[s], dout_now[s], cell_now[s] + back * H, p.time == 1, H);
        }
    }
    for (int step = p.time - 1; step >= 0; --step) {
        float4 da[2];
        EPI_UNROLL for (int s = 0; s < 2; ++s) {
            const Saved saved = ahead[s];
            if (own.owns[s] && step > 0)
                ahead[s] = saved_from(gates_now[s] + back * 4 * H, dout_now[s] + back * 2 * H, cell_now[s] + back * 2 * H,
                                      step == 1, H);
            const float* halves = dstate + own.unit * SEQUENCES + lane_id() % 4 * 2 + s;
            const float dh = saved.dout + (halves[0] + halves[TILES * 16 * SEQUENCES]);
            const CellGradient g = cell_gradient(saved.gate, cell[s], saved.previous, dh, dcell[s], false);
            cell[s] = saved.previous;
            dcell[s] = g.dc;
            da[s] = g.da;
        }
        EPI_UNROLL for (int s = 0; s < 2; ++s) {
            if (own.owns[s]) {
                gates_to(da[s], dgates + (lane_id() % 4 * 2 + s) * GATE_PITCH + own.unit, H);
                gates_to(da[s], result_now[s], H);
            }
            gates_now[s] += back * 4 * H;
            result_now[s] += back * 4 * H;
            cell_now[s] += back * H;
            dout_now[s] += back * 2 * H;
        }
        __syncthreads();
        uint32_t b[HALF][2];
        load_fragments(b, dgates + half * HALF * 16, GATE_PITCH);
        float sum[2][4] = {}; // of even and of odd steps: two chains
        EPI_UNROLL for (int k = 0; k < HALF; ++k) mma_bf16(sum[k % 2], w[k], b[k]);
        float* to = dstate + (half * TILES * 16 + tile * 16 + lane_id() / 4) * SEQUENCES + lane_id() % 4 * 2;
        EPI_UNROLL for (int r = 0; r < 2; ++r)
            *reinterpret_cast<float2*>(to + r * 8 * SEQUENCES) =
                make_float2(sum[0][2 * r] + sum[1][2 * r], sum[0][2 * r + 1] + sum[1][2 * r + 1]);
        __syncthreads();
    }
}

EPI_KERNEL(lstm_mma_backward, 64 * TILES, 1,
           (LstmParams p, const float* weight0, const float* weight1, float* gates, const float* cells, const float* dout)) {
    EPI_SHARED(bf16, dgates, SEQUENCES * GATE_PITCH);
    EPI_SHARED(float, dstate, 2 * TILES * 16 * SEQUENCES); // of each half of the gates, [units, sequences]
    lstm_mma_backward_of(p, weight0, weight1, gates, cells, dout, gates, dgates, dstate);
}
EPI_KERNEL(lstm_mma_backward_bf16, 64 * TILES, 1,
           (LstmParams p, const float* weight0, const float* weight1, const float* gates, const float* cells, const float* dout,
            bf16* result)) {
    EPI_SHARED(bf16, dgates, SEQUENCES * GATE_PITCH);
    EPI_SHARED(float, dstate, 2 * TILES * 16 * SEQUENCES);
    lstm_mma_backward_of(p, weight0, weight1, gates, cells, dout, result, dgates, dstate);
}
