// Strided, zero-padded correlation of channels-last sequences, as implicit products of matrices (no im2col in memory).
//   forward   out[b,l,o]   = bias[o] + Σ_{t,i} weight[o,i,t] inp[b, l stride + t - padding, i]     m (b,l)  n o    k (t,i)
//   input     dinp[b,x,i]  = Σ_{t,o} weight[o,i,t] dout[b, (x + padding - t) / stride, o]          m (b,x)  n i    k (t,o)
//   weight    dweight[o,i,t] += Σ_{b,l} dout[b,l,o] inp[b, l stride + t - padding, i]              m o      n (t,i) k (b,l)
// inp [B,L,I], weight [O,I,K], out [B,L',O]; only terms that exist are summed. The bias gradient is a column sum.
// FLOPs 2 B L' O I K each; bytes 4 (B L I + O I K + B L' O) and more where tiles reread. Grid (ceil(n/64), ceil(m/64), k
// chunks), 256 threads, tiles 64x64x16. The weight gradient cuts k into chunks: partial [chunk,O,K I], added in order by
// conv1d_weight_reduce. Deterministic. Source: implicit GEMM after cuDNN (Chetlur et al. 2014).
#include "include/common.cuh"
#include "include/gemm_tile.cuh"

using ConvTile = GemmTile<64, 64, 16>;

// inp seen from output row (b,l) and column (t,i).
EPI_DEVICE float input_at(const Conv& p, const float* inp, int row, int column) {
    const int b = row / p.out_length, l = row % p.out_length, t = column / p.inputs, i = column % p.inputs;
    const int x = l * p.stride + t - p.padding;
    return x >= 0 && x < p.length ? inp[(size_t(b) * p.length + x) * p.inputs + i] : 0.0f;
}

struct InputRows { // forward's A: lines are (b,l)
    static constexpr bool k_fastest = true;
    const Conv& p;
    const float* inp;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        return line < p.batch * p.out_length && k < p.kernel * p.inputs ? input_at(p, inp, line, k) : 0.0f;
    }
};

struct InputColumns { // the weight gradient's B: lines are (t,i)
    static constexpr bool k_fastest = false;
    const Conv& p;
    const float* inp;
    int k_end;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        return line < p.kernel * p.inputs && k < k_end ? input_at(p, inp, k, line) : 0.0f;
    }
};

struct OutputRows { // the input gradient's A: dout seen from input row (b,x) and (t,o)
    static constexpr bool k_fastest = true;
    const Conv& p;
    const float* dout;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        if (line >= p.batch * p.length || k >= p.kernel * p.outputs) return 0.0f;
        const int b = line / p.length, x = line % p.length, t = k / p.outputs, o = k % p.outputs;
        const int from = x + p.padding - t;
        if (from < 0 || from % p.stride != 0 || from / p.stride >= p.out_length) return 0.0f;
        return dout[(size_t(b) * p.out_length + from / p.stride) * p.outputs + o];
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

struct WeightByOutput { // the input gradient's B: lines are i, k is (t,o)
    static constexpr bool k_fastest = true;
    const Conv& p;
    const float* weight;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        if (line >= p.inputs || k >= p.kernel * p.outputs) return 0.0f;
        return weight[(k % p.outputs * p.inputs + line) * p.kernel + k / p.outputs];
    }
};

template <class A, class B>
EPI_DEVICE void product(const A& a, const B& b, int m, int n, int k0, int k1, const float* bias, float* out, float* shared) {
    const int m0 = int(blockIdx.y) * 64, n0 = int(blockIdx.x) * 64;
    ConvTile tile;
    tile.run(a, b, m0, n0, k0, k1, shared);
    EPI_UNROLL for (int i = 0; i < ConvTile::TM; ++i) {
        EPI_UNROLL for (int j = 0; j < ConvTile::TN; ++j) {
            const int row = m0 + tile.row_of(i), column = n0 + tile.column_of(j);
            if (row < m && column < n)
                out[size_t(row) * n + column] = tile.acc[i][j] + (bias != nullptr ? bias[column] : 0.0f);
        }
    }
}

EPI_KERNEL(conv1d_forward, 256, 2, (Conv p, const float* inp, const float* weight, const float* bias, float* out)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    product(InputRows{p, inp}, WeightByInput{p, weight}, p.batch * p.out_length, p.outputs, 0, p.kernel * p.inputs, bias, out,
            shared);
}

EPI_KERNEL(conv1d_backward_input, 256, 2, (Conv p, const float* dout, const float* weight, float* dinp)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    product(OutputRows{p, dout}, WeightByOutput{p, weight}, p.batch * p.length, p.inputs, 0, p.kernel * p.outputs, nullptr, dinp,
            shared);
}

EPI_KERNEL(conv1d_backward_weight, 256, 2, (Conv p, const float* inp, const float* dout, float* partial)) {
    EPI_SHARED(float, shared, ConvTile::shared_floats);
    const int columns = p.kernel * p.inputs;
    const int k0 = int(blockIdx.z) * p.k_chunk, k1 = min(p.batch * p.out_length, k0 + p.k_chunk);
    product(StepsLoader{dout, p.outputs, k1, p.outputs, 0}, InputColumns{p, inp, k1}, p.outputs, columns, k0, k1, nullptr,
            partial + size_t(blockIdx.z) * p.outputs * columns, shared);
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
