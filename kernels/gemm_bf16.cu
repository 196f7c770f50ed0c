// General matrix product on tensor cores: bf16 inputs, f32 accumulation and output. Formula, storage letters (nt, nn, tn) and
// epilogues as in gemm.cu; Gemm says what `parts`, `split` and `sums` add.
// Operands are f32, rounded on their way into shared memory, or bf16 already. f32: addresses multiples of 16 bytes, pitches and
// the contiguous extent multiples of 4. bf16: pitches multiples of 8 with zeros in the padding (to_bf16_rows makes such copies).
//   gemm_bf16_<storage>_<BM>x<BN>           nt, nn: A f32, B (a weight) bf16;   tn: both f32
//   gemm_bf16_<storage>_<BM>x<BN>_packed    both bf16;   gemm_bf16_tn_<BM>x<BN>_mixed    A bf16, B f32
//   gemm_bf16_<nt, nn>_80x104_f32           both f32: one row of tiles, so B is read once
//   gemm_bf16_tn_80x104_beside              A bf16, B two f32 matrices side by side (GemmBeside): A is read for both
// FLOPs 2 m n k; bytes (4 or 2) (m k ceil(n/BN) + k n ceil(m/BM)) + 4 m n. Grid (ceil(n/BN), ceil(m/BM), k chunks).
// Tiles 128x128, 128x104 (256 threads) and 80x104 (160): the launcher takes the one that pads m and n least. Slices of 32 (the
// last of a range: 16, if that is enough), two stages in shared memory without bank conflicts, the next slice on its way
// meanwhile: by cp.async (bf16) or through registers (f32). mma.sync m16n8k16.
// Deterministic. The tiles: include/gemm_bf16_tile.cuh.
#include "include/gemm_bf16_tile.cuh"

#define GEMM(name, blocks, StoredA, A, StoredB, B, BM, BN, WARPS_M, WARPS_N)                                            \
    EPI_KERNEL(gemm_bf16_##name, 32 * WARPS_M * WARPS_N, blocks, (Gemm p, const A* a, const B* b, const float* bias, float* out)) { \
        constexpr int THREADS = 32 * WARPS_M * WARPS_N;                                                                \
        constexpr bool TN = StoredA<BM>::transposed;                                                                   \
        const int k0 = int(blockIdx.z) * p.k_chunk;                                                                    \
        const Loader<StoredA<BM>, A, THREADS> load_a(p.lda, int(blockIdx.y) * BM, p.m, k0, TN ? p.mask_period : 0);    \
        const Loader<StoredB<BN>, B, THREADS, TN> load_b(p.ldb, int(blockIdx.x) * BN, p.n, k0, 0, p.sums != 0);        \
        gemm_bf16<BM, BN, WARPS_M, WARPS_N>(p, load_a, a, load_b, b, bias, out, PlainOutput{p.relu != 0});             \
    }

GEMM(nt_128x128, 2, Lines, float, Lines, bf16, 128, 128, 4, 2)
GEMM(nt_128x104, 2, Lines, float, Lines, bf16, 128, 104, 8, 1)
GEMM(nt_80x104, 3, Lines, float, Lines, bf16, 80, 104, 5, 1)
GEMM(nt_128x128_packed, 2, Lines, bf16, Lines, bf16, 128, 128, 4, 2)
GEMM(nt_128x104_packed, 2, Lines, bf16, Lines, bf16, 128, 104, 8, 1)
GEMM(nt_80x104_packed, 3, Lines, bf16, Lines, bf16, 80, 104, 5, 1)
GEMM(nt_80x104_f32, 2, Lines, float, Lines, float, 80, 104, 5, 1)
GEMM(nn_128x128, 1, Lines, float, Steps, bf16, 128, 128, 4, 2)
GEMM(nn_128x104, 2, Lines, float, Steps, bf16, 128, 104, 8, 1)
GEMM(nn_80x104, 3, Lines, float, Steps, bf16, 80, 104, 5, 1)
GEMM(nn_128x128_packed, 2, Lines, bf16, Steps, bf16, 128, 128, 4, 2)
GEMM(nn_128x104_packed, 2, Lines, bf16, Steps, bf16, 128, 104, 8, 1)
GEMM(nn_80x104_packed, 3, Lines, bf16, Steps, bf16, 80, 104, 5, 1)
GEMM(nn_80x104_f32, 2, Lines, float, Steps, float, 80, 104, 5, 1)
GEMM(tn_128x128, 1, Steps, float, Steps, float, 128, 128, 4, 2)
GEMM(tn_128x104, 1, Steps, float, Steps, float, 128, 104, 8, 1)
GEMM(tn_80x104, 1, Steps, float, Steps, float, 80, 104, 5, 1)
GEMM(tn_128x128_mixed, 1, Steps, bf16, Steps, float, 128, 128, 4, 2)
GEMM(tn_128x104_mixed, 1, Steps, bf16, Steps, float, 128, 104, 8, 1)
GEMM(tn_80x104_mixed, 1, Steps, bf16, Steps, float, 80, 104, 5, 1)
GEMM(tn_128x128_packed, 2, Steps, bf16, Steps, bf16, 128, 128, 4, 2)
GEMM(tn_128x104_packed, 2, Steps, bf16, Steps, bf16, 128, 104, 8, 1)
GEMM(tn_80x104_packed, 3, Steps, bf16, Steps, bf16, 80, 104, 5, 1)

EPI_KERNEL(gemm_bf16_tn_80x104_beside, 160, 1,
           (GemmBeside p, const bf16* a, const float* b, const float* beside, float* partial)) {
    const int k0 = int(blockIdx.z) * p.gemm.k_chunk;
    const Loader<Steps<80>, bf16, 160> load_a(p.gemm.lda, int(blockIdx.y) * 80, p.gemm.m, k0);
    const BesideLoader<Steps<104>, 160> load_b(p, b, beside, int(blockIdx.x) * 104, k0);
    gemm_bf16<80, 104, 5, 1>(p.gemm, load_a, a, load_b, b, nullptr, partial, PlainOutput{false});
}

// out [rows, ld_out] bf16 = inp [rows, ld_in], `width` columns, zero padding. ld_out is a multiple of 8.
EPI_KERNEL(to_bf16_rows, 256, 4, (CopyRows p, const float* inp, bf16* out)) {
    const int pairs = p.dst_pitch / 2, count = p.rows * pairs;
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += int(gridDim.x * blockDim.x)) {
        const int row = i / pairs, column = i % pairs * 2;
        const float* from = inp + size_t(row) * p.src_pitch + column;
        const float low = column < p.width ? from[0] : 0.0f, high = column + 1 < p.width ? from[1] : 0.0f;
        reinterpret_cast<bf16x2*>(out)[size_t(row) * pairs + i % pairs] = to_bf16x2(low, high);
    }
}
