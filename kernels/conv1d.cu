// Strided, zero-padded correlation of channels-last sequences, as implicit products of matrices (no im2col in memory).
//   forward   out[b,l,o]   = leaky(bias[o] + Σ_{t,i} weight[o,i,t] inp[b, l stride + t - padding, i])    m (b,l) n o k (t,i)
//   transpose out[b,x,o]   = leaky(bias[o] + Σ_{t,i} weight[i,o,t] inp[b, (x + padding - t) / stride, i])  m (b,m') n o k (j,i)
//             one product for each phase r of the stride: x = m' stride + r - padding meets tap t = r + j stride in row m' - j.
//             With neither bias nor leaky it is the forward's input gradient. Where outputs are few, one product gives what every
//             input sends through every tap, and `fold` adds what meets: out[b,x,o] = leaky(bias[o] + Σ_t taps[b, l, o, t]).
//   weight    dweight[o,i,t] += Σ_{b,l} dout[b,l,o] inp[b, l stride + t - padding, i]                    m o n (t,i) k (b,l)
// inp [B,L,I] or bit planes of one-hot DNA (I = 4), weight [O,I,K] (transposed [I,O,K]), out [B,L',O]; leaky(x) is x or slope x;
// only terms that exist are summed. The bias gradient is a column sum.
// FLOPs 2 B L' O I K each; bytes 4 (B L I + O I K + B L' O) and more where tiles reread. Grid (ceil(n/64), ceil(m/64), k
// chunks or phases), 256 threads, tiles 64x64x16. The weight gradient cuts k into chunks: partial [chunk,O,K I], added in order
// by conv1d_weight_reduce. Deterministic. Source: implicit GEMM after cuDNN (Chetlur et al. 2014).
#include "include/common.cuh"
#include "include/dna.cuh"
#include "include/gemm_tile.cuh"

using ConvTile = GemmTile<64, 64, 16>;

// Activations, position x of sample b.
struct Floats {
    const float* inp;
    EPI_DEVICE_MEMBER float at(const Conv& p, int b, int x, int i) const { return inp[(size_t(b) * p.length + x) * p.inputs + i]; }
};
// One-hot bases.
struct Bases {
    const uint64_t* planes;
    EPI_DEVICE_MEMBER float at(const Conv& p, int b, int x, int i) const {
        return dna_code(planes + size_t(b) * 3 * p.words, p.words, x) == i ? 1.0f : 0.0f;
    }
};

// inp seen from output row (b,l) and column (t,i).
template <class Inp> EPI_DEVICE float input_at(const Conv& p, const Inp& inp, int row, int column) {
    const int b = row / p.out_length, l = row % p.out_length, t = column / p.inputs, i = column % p.inputs;
    const int x = l * p.stride + t - p.padding;
    return x >= 0 && x < p.length ? inp.at(p, b, x, i) : 0.0f;
}

template <class Inp> struct InputRows { // forward's A: lines are (b,l)
    static constexpr bool k_fastest = true;
    const Conv& p;
    Inp inp;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        return line < p.batch * p.out_length && k < p.kernel * p.inputs ? input_at(p, inp, line, k) : 0.0f;
    }
};

template <class Inp> struct InputColumns { // the weight gradient's B: lines are (t,i)
    static constexpr bool k_fastest = false;
    const Conv& p;
    Inp inp;
    int k_end;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        return line < p.kernel * p.inputs && k < k_end ? input_at(p, inp, k, line) : 0.0f;
    }
};

// The transposed product's A: lines are (b,m'), k is (j,c) over the channels c of dout.
struct OutputRows {
    static constexpr bool k_fastest = true;
    const Conv& p;
    const float* dout;
    int lines, rows, depth; // batch * rows, rows m' of a sample, taps of this phase times channels
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        if (line >= lines || k >= depth) return 0.0f;
        const int b = line / rows, from = line % rows - k / p.outputs;
        return from >= 0 && from < p.out_length ? dout[(size_t(b) * p.out_length + from) * p.outputs + k % p.outputs] : 0.0f;
    }
};

struct WeightByInput { // forward's B: lines are o, k is (t,i)
    static constexpr bool k_fastest = true;
    const Conv& p;
    const float* weight;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        if (line >= p.outputs || k >= p.kernel * p.inputs) return 0.0f;
        return weight[(line * p.inputs + k % p.inputs) * p.kernel + k / p.inputs];
    }
};

struct WeightByOutput { // the transposed product's B: lines are i, k is (j,o)
    static constexpr bool k_fastest = true;
    const Conv& p;
    const float* weight;
    int phase, depth;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        if (line >= p.inputs || k >= depth) return 0.0f;
        return weight[(k % p.outputs * p.inputs + line) * p.kernel + phase + k / p.outputs * p.stride];
    }
};

EPI_DEVICE float leaky(float x, float slope) { return x > 0.0f ? x : slope * x; }

// C = A B, element (row, column) handed to `store`.
template <class A, class B, class Store>
EPI_DEVICE void product(const A& a, const B& b, int m, int n, int k0, int k1, float* shared, const Store& store) {
    const int m0 = int(blockIdx.y) * 64, n0 = int(blockIdx.x) * 64;
    ConvTile tile;
    tile.run(a, b, m0, n0, k0, k1, shared);
    EPI_UNROLL for (int i = 0; i < ConvTile::TM; ++i) {
        EPI_UNROLL for (int j = 0; j < ConvTile::TN; ++j) {
            const int row = m0 + tile.row_of(i), column = n0 + tile.column_of(j);
            if (row < m && column < n) store(row, column, tile.acc[i][j]);
        }
    }
}

struct StoreRows { // out [m,n]
    float* out;
    const float* bias;
    float slope;
    int n;
    EPI_DEVICE_MEMBER void operator()(int row, int column, float value) const {
        out[size_t(row) * n + column] = leaky(value + (bias != nullptr ? bias[column] : 0.0f), slope);
    }
};

struct StorePhase { // row (b,m') is position m' stride + r - padding, where there is one
    const Conv& p;
    float* out;
    const float* bias;
    int rows, phase;
    EPI_DEVICE_MEMBER void operator()(int row, int column, float value) const {
        const int x = row % rows * p.stride + phase - p.padding;
        if (x < 0 || x >= p.length) return;
        const size_t at = (size_t(row / rows) * p.length + x) * p.inputs + column;
        out[at] = leaky(value + (bias != nullptr ? bias[column] : 0.0f), p.slope);
    }
};

template <class Inp>
EPI_DEVICE void forward(const Conv& p, const Inp& inp, const float* weight, const float* bias, float* out, float* shared) {
    product(InputRows<Inp>{p, inp}, WeightByInput{p, weight}, p.batch * p.out_length, p.outputs, 0, p.kernel * p.inputs, shared,
            StoreRows{out, bias, p.slope, p.outputs});
}
template <class Inp>
EPI_DEVICE void backward_weight(const Conv& p, const Inp& inp, const float* dout, float* partial, float* shared) {
    const int columns = p.kernel * p.inputs;
    const int k0 = int(blockIdx.z) * p.k_chunk, k1 = min(p.batch * p.out_length, k0 + p.k_chunk);
    product(StepsLoader{dout, p.outputs, k1, p.outputs, 0}, InputColumns<Inp>{p, inp, k1}, p.outputs, columns, k0, k1, shared,
            StoreRows{partial + size_t(blockIdx.z) * p.outputs * columns, nullptr, 1.0f, columns});
}

EPI_KERNEL(conv1d_forward, 256, 2, (Conv p, const float* inp, const float* weight, const float* bias, float* out)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    forward(p, Floats{inp}, weight, bias, out, shared);
}
EPI_KERNEL(dna_conv1d_forward, 256, 2, (Conv p, const uint64_t* planes, const float* weight, const float* bias, float* out)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    forward(p, Bases{planes}, weight, bias, out, shared);
}

// `p` is that of the forward pass whose adjoint this is: `dout` has its outputs, `out` its inputs.
EPI_KERNEL(conv1d_transposed, 256, 2, (Conv p, const float* dout, const float* weight, const float* bias, float* out)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    const int phase = int(blockIdx.z), rows = ceil_div(p.length + p.padding, p.stride);
    const int taps = phase < p.kernel ? ceil_div(p.kernel - phase, p.stride) : 0, depth = taps * p.outputs;
    product(OutputRows{p, dout, p.batch * rows, rows, depth}, WeightByOutput{p, weight, phase, depth}, p.batch * rows, p.inputs, 0,
            depth, shared, StorePhase{p, out, bias, rows, phase});
}

// taps [B,L',I,K] of the forward pass whose adjoint this is -> out [B,L,I]; taps are added in order.
EPI_KERNEL(conv1d_fold, 256, 4, (Conv p, const float* taps, const float* bias, float* out)) {
    const int count = p.batch * p.length * p.inputs;
    for (int at = int(blockIdx.x * blockDim.x + threadIdx.x); at < count; at += int(gridDim.x * blockDim.x)) {
        const int i = at % p.inputs, x = at / p.inputs % p.length + p.padding, b = at / p.inputs / p.length;
        float sum = bias != nullptr ? bias[i] : 0.0f;
        for (int t = x % p.stride; t < p.kernel && t <= x; t += p.stride) {
            const int l = (x - t) / p.stride;
            if (l < p.out_length) sum += taps[((size_t(b) * p.out_length + l) * p.inputs + i) * p.kernel + t];
        }
        out[at] = leaky(sum, p.slope);
    }
}

EPI_KERNEL(conv1d_backward_weight, 256, 2, (Conv p, const float* inp, const float* dout, float* partial)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    backward_weight(p, Floats{inp}, dout, partial, shared);
}
EPI_KERNEL(dna_conv1d_backward_weight, 256, 2, (Conv p, const uint64_t* planes, const float* dout, float* partial)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    backward_weight(p, Bases{planes}, dout, partial, shared);
}

// dweight[o,i,t] += Σ_chunk partial[chunk, o, (t,i)]
EPI_KERNEL(conv1d_weight_reduce, 256, 4, (Conv p, int chunks, const float* partial, float* dweight)) {
    const int at = int(blockIdx.x * blockDim.x + threadIdx.x), count = p.outputs * p.inputs * p.kernel;
    if (at >= count) return;
    const int t = at % p.kernel, i = at / p.kernel % p.inputs, o = at / p.kernel / p.inputs;
    const float* from = partial + (size_t(o) * p.kernel + t) * p.inputs + i;
    float sum = 0.0f;
    for (int chunk = 0; chunk < chunks; ++chunk) sum += from[size_t(chunk) * count];
    dweight[at] += sum;
}
