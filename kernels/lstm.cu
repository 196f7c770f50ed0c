// One bidirectional LSTM layer, zero initial state; the recurrence only: what does not recur is done by gemm.cu.
//   a = W_ih x_t + b (already in `gates`) + W_hh h_{t-1};   i,f,o = σ(a_i, a_f, a_o), g = tanh(a_g)
//   c_t = f c_{t-1} + i g;   h_t = o tanh(c_t)              σ: logistic, or clip(0.2 a + 0.5, 0, 1) where `hard`
// gates [2,B,T,4H] in: W_ih x + b, out (p.save): activated gates; after backward: gradients of a. cells [2,B,T,H].
// weight_hh [4H,H] a direction, rows i,f,g,o; out, dout [B,T,2H], forward direction first.
// FLOPs 16 B T H² a pass (two directions). Grid (ceil(B / sequences), 2): a block owns its sequences and one direction
// for all T, so blocks never wait for each other.
// Variants: general (any H, weights read from L2 each step, 4 sequences); lstm_resident.cu for H = 100 and 50; lstm_mma.cu for
// H = 100 in bf16 and several models.
// Deterministic: sums run in the order of k. Source: Appleyard et al. 2016 (one product for all W x), Diamos et al. 2016
// (persistent recurrence).
#include "include/common.cuh"
#include "include/lstm_cell.cuh"

constexpr int SEQUENCES = 4;

// packed[d][k * H + u] = (i, f, g, o) rows of unit u at column k: what a thread of the forward pass reads at once.
EPI_KERNEL(lstm_pack, 256, 4, (LstmParams p, const float* weight0, const float* weight1, float4* packed)) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), size = p.hidden * p.hidden;
    if (i >= size) return;
    const float* weight = blockIdx.y == 0 ? weight0 : weight1;
    const int u = i % p.hidden, k = i / p.hidden;
    const float* from = weight + size_t(u) * p.hidden + k;
    packed[size_t(blockIdx.y) * size + i] = make_float4(from[0], from[size], from[2 * size_t(size)], from[3 * size_t(size)]);
}

EPI_KERNEL(lstm_forward, 512, 1, (LstmParams p, const float4* packed, float* gates, float* cells, float* out)) {
    SharedArena arena;
    const int H = p.hidden, direction = int(blockIdx.y), first = int(blockIdx.x) * SEQUENCES;
    float* state = arena.take<float>(2 * SEQUENCES * H); // h, double-buffered
    float* cell = arena.take<float>(SEQUENCES * H);      // c, read and written by the unit's thread alone
    const int count = min(SEQUENCES, p.batch - first);
    for (int i = int(threadIdx.x); i < 2 * SEQUENCES * H; i += int(blockDim.x)) state[i] = 0.0f;
    for (int u = int(threadIdx.x); u < H; u += int(blockDim.x))
        for (int s = 0; s < SEQUENCES; ++s) cell[s * H + u] = 0.0f;
    packed += size_t(direction) * H * H;
    for (int step = 0; step < p.time; ++step) {
        __syncthreads();
        const int t = direction == 0 ? step : p.time - 1 - step;
        const float* previous = state + (step % 2) * SEQUENCES * H;
        float* next = state + ((step + 1) % 2) * SEQUENCES * H;
        for (int u = int(threadIdx.x); u < H; u += int(blockDim.x)) {
            float4 a[SEQUENCES];
            EPI_UNROLL for (int s = 0; s < SEQUENCES; ++s) {
                a[s] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (s < count) a[s] = load_gates(gates, p, direction, first + s, t, u);
            }
            for (int k = 0; k < H; ++k) {
                const float4 w = packed[size_t(k) * H + u];
                EPI_UNROLL for (int s = 0; s < SEQUENCES; ++s) add_scaled(a[s], w, previous[s * H + k]);
            }
            EPI_UNROLL for (int s = 0; s < SEQUENCES; ++s) {
                if (s >= count) continue;
                const Cell now = lstm_cell(a[s], cell[s * H + u], p.hard);
                cell[s * H + u] = now.c;
                next[s * H + u] = now.h;
                store_state(now, p, direction, first + s, t, u, gates, cells, out);
            }
        }
    }
}

EPI_KERNEL(lstm_backward, 512, 1,
           (LstmParams p, const float* weight0, const float* weight1, float* gates, const float* cells, const float* dout)) {
    SharedArena arena;
    const int H = p.hidden, direction = int(blockIdx.y), first = int(blockIdx.x) * SEQUENCES;
    float* dgates = arena.take<float>(SEQUENCES * 4 * H);
    float* dstate = arena.take<float>(SEQUENCES * H); // dh and dc that come from the step after: the unit's thread alone
    float* dcell = arena.take<float>(SEQUENCES * H);
    const float* weight = direction == 0 ? weight0 : weight1;
    const int count = min(SEQUENCES, p.batch - first);
    for (int u = int(threadIdx.x); u < H; u += int(blockDim.x))
        for (int s = 0; s < SEQUENCES; ++s) dstate[s * H + u] = dcell[s * H + u] = 0.0f;
    for (int i = int(threadIdx.x); i < SEQUENCES * 4 * H; i += int(blockDim.x)) dgates[i] = 0.0f;
    __syncthreads();
    for (int step = p.time - 1; step >= 0; --step) {
        const int t = direction == 0 ? step : p.time - 1 - step;
        for (int u = int(threadIdx.x); u < H; u += int(blockDim.x)) {
            for (int s = 0; s < count; ++s) {
                const float dh = dstate[s * H + u] + dout[output_at(p, direction, first + s, t) + u];
                const size_t at = row_at(p, direction, first + s, t) * H + u;
                const float previous = step > 0 ? cells[direction == 0 ? at - H : at + H] : 0.0f;
                const float4 gate = load_gates(gates, p, direction, first + s, t, u);
                const CellGradient g = cell_gradient(gate, cells[at], previous, dh, dcell[s * H + u], p.hard);
                dcell[s * H + u] = g.dc;
                store_gates(g.da, gates, p, direction, first + s, t, u);
                dgates[(s * 4 + 0) * H + u] = g.da.x;
                dgates[(s * 4 + 1) * H + u] = g.da.y;
                dgates[(s * 4 + 2) * H + u] = g.da.z;
                dgates[(s * 4 + 3) * H + u] = g.da.w;
            }
        }
        __syncthreads();
        for (int u = int(threadIdx.x); u < H; u += int(blockDim.x)) {
            float sum[SEQUENCES] = {};
            for (int j = 0; j < 4 * H; ++j) {
                const float w = weight[size_t(j) * H + u];
                EPI_UNROLL for (int s = 0; s < SEQUENCES; ++s) sum[s] = fmaf(w, dgates[s * 4 * H + j], sum[s]);
            }
            EPI_UNROLL for (int s = 0; s < SEQUENCES; ++s) dstate[s * H + u] = sum[s];
        }
        __syncthreads();
    }
}
