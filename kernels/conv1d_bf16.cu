// Convolutions on tensor cores: bf16 products, f32 sums, operands and results in f32. Formulas as in conv1d.cu. What a filter sees
// of a channels-last sequence lies contiguous, so the products are those of gemm_bf16 with an operand whose rows overlap
// (Windows): nothing is copied but the weights.
//   rows     out[b, r step + first, o] = leaky(bias[o] + Σ_e window[b,r,e] weight[o,e])       e = (t,i); rows outside 0..length drop
//            forward: windows of inp, pitch stride I, origin -padding I; step 1, first 0
//            backwards through LeakyReLU: the sign is that of what LeakyReLU gave
//            transpose, once for each phase of the stride: windows of the shorter sequence, pitch I, origin -(J-1) I for J taps
//   weight   partial[chunk, o, e] = Σ_{(b,r) in chunk} dout[b,r,o] window[b,r,e],   added by conv1d_weight_reduce
//   pack     the weights as bf16 rows [o, e]
//   one_hot  DNA as f32 [B,L,4]
// Channels of the windows, and for `weight` those of dout, are multiples of 4, addresses of 16 bytes.
// FLOPs 2 m n k; bytes as stored, a window's overlap from caches. Grid (ceil(n/BN), ceil(m/BM), k chunks), 256 threads.
// Deterministic. Source: implicit GEMM after cuDNN (Chetlur et al. 2014).
#include "include/dna.cuh"
#include "include/gemm_bf16_tile.cuh"

constexpr int THREADS = 256;

// LeakyReLU; where there are `signs`, of the LeakyReLU's output that the result is the gradient of, they decide.
struct ConvOutput {
    const ConvGemm& p;
    const float* signs;
    EPI_DEVICE_MEMBER int row(int m) const {
        const int b = m / p.rows, x = m % p.rows * p.step + p.first;
        return x >= 0 && x < p.length ? b * p.length + x : -1;
    }
    EPI_DEVICE_MEMBER float finish(float value, size_t at) const {
        return (signs != nullptr ? signs[at] : value) > 0.0f ? value : p.slope * value;
    }
};

#define ROWS(BM, BN, WARPS_M, WARPS_N)                                                                                 \
    EPI_KERNEL(conv1d_bf16_rows_##BM##x##BN, THREADS, 2,                                                               \
               (ConvGemm p, const float* inp, const bf16* weight, const float* bias, const float* signs, float* out)) { \
        const Windows windows{p.rows, p.gemm.lda, p.origin, p.sample};                                                 \
        const WindowLoader<Lines<BM>, THREADS> load_a(windows, int(blockIdx.y) * BM, p.gemm.m, 0);                     \
        const Loader<Lines<BN>, bf16, THREADS> load_b(p.gemm.ldb, int(blockIdx.x) * BN, p.gemm.n, 0);                  \
        gemm_bf16<BM, BN, WARPS_M, WARPS_N>(p.gemm, load_a, inp, load_b, weight, bias, out, ConvOutput{p, signs});     \
    }
#define WEIGHT(BM, BN, WARPS_M, WARPS_N)                                                                               \
    EPI_KERNEL(conv1d_bf16_weight_##BM##x##BN, THREADS, 1, (ConvGemm p, const float* dout, const float* inp, float* partial)) { \
        const Windows windows{p.rows, p.gemm.ldb, p.origin, p.sample};                                                 \
        const int k0 = int(blockIdx.z) * p.gemm.k_chunk;                                                               \
        const Loader<Steps<BM>, float, THREADS> load_a(p.gemm.lda, int(blockIdx.y) * BM, p.gemm.m, k0);                \
        const WindowLoader<Steps<BN>, THREADS> load_b(windows, int(blockIdx.x) * BN, p.gemm.n, k0);                    \
        gemm_bf16<BM, BN, WARPS_M, WARPS_N>(p.gemm, load_a, dout, load_b, inp, nullptr, partial, PlainOutput{false});  \
    }

ROWS(128, 128, 4, 2)
ROWS(128, 104, 8, 1)
WEIGHT(128, 128, 4, 2)
WEIGHT(128, 104, 8, 1)

// out [lines, pitch] bf16: element (j,c) of line o is weight[o line_stride + c channel_stride + first + j step], then zeros.
EPI_KERNEL(conv1d_pack_bf16, 256, 4, (ConvPack p, const float* weight, bf16* out)) {
    const int count = p.lines * p.pitch;
    for (int at = int(blockIdx.x * blockDim.x + threadIdx.x); at < count; at += int(gridDim.x * blockDim.x)) {
        const int o = at / p.pitch, e = at % p.pitch, j = e / p.channels, c = e % p.channels;
        const bool exists = j < p.taps;
        out[at] = to_bf16(exists ? weight[o * p.line_stride + c * p.channel_stride + p.first + j * p.step] : 0.0f);
    }
}

// planes [B,3,words] -> out [B,L,4]; N is all zeros.
EPI_KERNEL(dna_one_hot, 256, 4, (Conv p, const uint64_t* planes, float* out)) {
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < p.batch * p.length; i += int(gridDim.x * blockDim.x)) {
        const int code = dna_code(planes + size_t(i / p.length) * 3 * p.words, p.words, i % p.length);
        reinterpret_cast<float4*>(out)[i] = make_float4(code == 0, code == 1, code == 2, code == 3);
    }
}
