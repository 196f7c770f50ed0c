// General matrix product in f32, with the epilogues that linear layers need.
//   C[m,n] = relu?( bias[n] + Σ_k A[m,k] B[k,n] )      or      C[m,n] += Σ_k A[m,k] B[k,n]
// Storage:  nt  A [m,k], B [n,k]   (linear forward: inp, weight)
//           nn  A [m,k], B [k,n]   (input gradient: dout, weight)
//           tn  A [k,m], B [k,n]   (weight gradient: dout, inp); rows of A may be masked, see Gemm::mask_period
// FLOPs 2 m n k; bytes 4 (m k ceil(n/BN) + k n ceil(m/BM) + m n). Grid (ceil(n/BN), ceil(m/BM), k chunks), 256 threads.
// Variants: tiles 128x128x8 (large) and 64x64x16 (small): same bits. Weight gradients cut k into chunks whose partial
// sums [chunk,m,n] gemm_reduce adds in order.
// Deterministic. Source: the SGEMM ladder of siboehm.com/articles/22/CUDA-MMM, register prefetch after CUTLASS.
#include "include/common.cuh"
#include "include/gemm_tile.cuh"

template <int BM, int BN, int BK, class A, class B>
EPI_DEVICE void gemm(const Gemm& p, const A& a, const B& b, const float* bias, float* out, float* shared) {
    const int m0 = int(blockIdx.y) * BM, n0 = int(blockIdx.x) * BN;
    const int k0 = int(blockIdx.z) * p.k_chunk, k1 = min(p.k, k0 + p.k_chunk);
    GemmTile<BM, BN, BK> tile;
    tile.run(a, b, m0, n0, k0, k1, shared);
    if (gridDim.z > 1) out += size_t(blockIdx.z) * p.m * p.n;
 EPI_UNROLL for (int i = 0; i < tile.TM; ++i) {
        const int m = m0 + tile.row_of(i);
        if (m >= p.m) continue;
 EPI_UNROLL for (int j = 0; j < tile.TN; ++j) {
            const int n = n0 + tile.column_of(j);
            if (n >= p.n) continue;
            const size_t index = size_t(m) * p.ldc + n;
            float value = tile.acc[i][j];
            if (bias != nullptr) value += bias[n];
            if (p.accumulate) value += out[index];
            out[index] = p.relu ? relu(value) : value;
        }
    }
}

// Which loaders a storage needs, and the body shared by its two sizes.
template <int BM, int BN, int BK> EPI_DEVICE void gemm_nt(const Gemm& p, const float* a, const float* b, const float* bias, float* out) {
    EPI_SHARED(float, shared, (GemmTile<BM, BN, BK>::shared_floats));
    const int k_end = min(p.k, int(blockIdx.z + 1) * p.k_chunk);
    gemm<BM, BN, BK>(p, LinesLoader{a, p.m, k_end, p.lda}, LinesLoader{b, p.n, k_end, p.ldb}, bias, out, shared);
}
template <int BM, int BN, int BK> EPI_DEVICE void gemm_nn(const Gemm& p, const float* a, const float* b, const float* bias, float* out) {
    EPI_SHARED(float, shared, (GemmTile<BM, BN, BK>::shared_floats));
    const int k_end = min(p.k, int(blockIdx.z + 1) * p.k_chunk);
    gemm<BM, BN, BK>(p, LinesLoader{a, p.m, k_end, p.lda}, StepsLoader{b, p.n, k_end, p.ldb, 0}, bias, out, shared);
}
template <int BM, int BN, int BK> EPI_DEVICE void gemm_tn(const Gemm& p, const float* a, const float* b, const float* bias, float* out) {
    EPI_SHARED(float, shared, (GemmTile<BM, BN, BK>::shared_floats));
    const int k_end = min(p.k, int(blockIdx.z + 1) * p.k_chunk);
    gemm<BM, BN, BK>(p, StepsLoader{a, p.m, k_end, p.lda, p.mask_period}, StepsLoader{b, p.n, k_end, p.ldb, 0}, bias, out, shared);
}

EPI_KERNEL(gemm_nt_large, 256, 2, (Gemm p, const float* a, const float* b, const float* bias, float* out)) {
    gemm_nt<128, 128, 8>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_nt_small, 256, 3, (Gemm p, const float* a, const float* b, const float* bias, float* out)) {
    gemm_nt<64, 64, 16>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_nn_large, 256, 2, (Gemm p, const float* a, const float* b, const float* bias, float* out)) {
    gemm_nn<128, 128, 8>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_nn_small, 256, 3, (Gemm p, const float* a, const float* b, const float* bias, float* out)) {
    gemm_nn<64, 64, 16>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_tn_large, 256, 2, (Gemm p, const float* a, const float* b, const float* bias, float* out)) {
    gemm_tn<128, 128, 8>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_tn_small, 256, 3, (Gemm p, const float* a, const float* b, const float* bias, float* out)) {
    gemm_tn<64, 64, 16>(p, a, b, bias, out);
}

// out[m,n] (+)= relu?(bias[n] + Σ_chunk partial[chunk,m,n]), chunks in order; rows of out have pitch ldc. With p.sums, column
// n of the partial sums is added to sums0[m] and, where there is one, sums1[m]. Columns from p.split on go to
// `beside`, as a matrix of so many columns.
EPI_KERNEL(gemm_reduce, 256, 4,
           (Gemm p, int chunks, const float* partial, const float* bias, float* out, float* beside, float* sums0,
            float* sums1)) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), width = p.n + p.sums;
    if (i >= p.m * width) return;
    const int row = i / width, column = i % width;
    float sum = 0.0f;
    for (int chunk = 0; chunk < chunks; ++chunk) sum += partial[size_t(chunk) * p.m * width + i];
    if (column == p.n) {
        sums0[row] += sum;
        if (sums1 != nullptr) sums1[row] += sum;
        return;
    }
    float* target = column < p.split ? out + size_t(row) * p.ldc + column
                                     : beside + size_t(row) * (p.n - p.split) + column - p.split;
    if (bias != nullptr) sum += bias[column];
    if (p.accumulate) sum += *target;
    *target = p.relu ? relu(sum) : sum;
}
