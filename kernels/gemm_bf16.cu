// General matrix product on tensor cores: bf16 inputs, f32 accumulation and output. Formula, storage letters (nt, nn, tn),
// epilogues and Gemm as in gemm.cu, but lda and ldb are multiples of 8 with zeros in the padding (to_bf16_rows makes such
// copies), so that every 16-byte piece is either whole or absent.
// FLOPs 2 m n k; bytes 2 (m k ceil(n/BN) + k n ceil(m/BM)) + 4 m n. Grid (ceil(n/BN), ceil(m/BM), k chunks), 256 threads.
// Variants: tiles 128x128x32 (large) and 64x64x32 (small), three cp.async stages, swizzled shared memory without bank
// conflicts, mma.sync m16n8k16. Weight gradients cut k into chunks that gemm_reduce adds in order.
// Deterministic. Source: CUTLASS's multistage pipeline and ldmatrix swizzle; PTX ISA for the fragments.
#include "include/async_copy.cuh"
#include "include/common.cuh"
#include "include/mma.cuh"
#include "include/params.cuh"

constexpr int BK = 32, STAGES = 3, CHUNK = 8; // a chunk: 8 elements, 16 bytes

// Operand stored with its lines (rows of A, columns of B) as rows, k contiguous. Shared tile [LINES][BK].
template <int LINES> struct Lines {
    static constexpr bool transposed = false;
    static constexpr int elements = LINES * BK;
    static EPI_DEVICE_MEMBER int at(int line, int k) { return line * BK + ((k / CHUNK) ^ (line / 2 % 4)) * CHUNK; }
    static EPI_DEVICE_MEMBER void load(bf16* tile, const bf16* data, int ld, int line0, int lines, int k0, int k1, int) {
        EPI_UNROLL for (int i = 0; i < elements / CHUNK / 256; ++i) {
            const int piece = int(threadIdx.x) + i * 256, line = piece / (BK / CHUNK), k = piece % (BK / CHUNK) * CHUNK;
            const bool inside = line0 + line < lines && k0 + k < k1;
            cp_async<16>(tile + at(line, k), inside ? data + size_t(line0 + line) * ld + k0 + k : data, inside ? 16 : 0);
        }
    }
};

// Operand stored with k as rows, lines contiguous. Shared tile [BK][LINES]; masked rows are zero.
template <int LINES> struct Steps {
    static constexpr bool transposed = true;
    static constexpr int elements = LINES * BK;
    static EPI_DEVICE_MEMBER int at(int line, int k) { return k * LINES + ((line / CHUNK) ^ (k % 8)) * CHUNK; }
    static EPI_DEVICE_MEMBER void load(bf16* tile, const bf16* data, int ld, int line0, int lines, int k0, int k1, int period) {
        EPI_UNROLL for (int i = 0; i < elements / CHUNK / 256; ++i) {
            const int piece = int(threadIdx.x) + i * 256, k = piece / (LINES / CHUNK), line = piece % (LINES / CHUNK) * CHUNK;
            const bool masked = period != 0 && (k0 + k) % period == period - 1;
            const bool inside = line0 + line < lines && k0 + k < k1 && !masked;
            cp_async<16>(tile + at(line, k), inside ? data + size_t(k0 + k) * ld + line0 + line : data, inside ? 16 : 0);
        }
    }
};

template <class A, class B, int BM, int BN, int WARPS_M>
EPI_DEVICE void gemm_bf16(const Gemm& p, const bf16* a, const bf16* b, const float* bias, float* out) {
    constexpr int WM = BM / WARPS_M, WN = BN / (8 / WARPS_M); // what a warp computes
    constexpr int MT = WM / 16, NT = WN / 8;
    static_assert(NT % 2 == 0, "B fragments are loaded in pairs");
    SharedArena arena;
    bf16* tile_a = arena.take<bf16>(STAGES * A::elements);
    bf16* tile_b = arena.take<bf16>(STAGES * B::elements);
    const int m0 = int(blockIdx.y) * BM, n0 = int(blockIdx.x) * BN;
    const int k0 = int(blockIdx.z) * p.k_chunk, k1 = min(p.k, k0 + p.k_chunk);
    const int slices = k1 > k0 ? ceil_div(k1 - k0, BK) : 0;
    const int warp_m = warp_id() % WARPS_M * WM, warp_n = warp_id() / WARPS_M * WN;
    const int matrix = lane_id() / 8, row = lane_id() % 8; // this lane's row address for ldmatrix

    float acc[MT][NT][4];
    EPI_UNROLL for (int i = 0; i < MT; ++i)
        EPI_UNROLL for (int j = 0; j < NT; ++j)
            EPI_UNROLL for (int r = 0; r < 4; ++r) acc[i][j][r] = 0.0f;

    EPI_UNROLL for (int s = 0; s < STAGES - 1; ++s) {
        if (s < slices) {
            A::load(tile_a + s * A::elements, a, p.lda, m0, p.m, k0 + s * BK, k1, p.mask_period);
            B::load(tile_b + s * B::elements, b, p.ldb, n0, p.n, k0 + s * BK, k1, 0);
        }
        cp_async_commit();
    }
    for (int s = 0; s < slices; ++s) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // slice s has arrived for all, and nobody reads the stage that is filled next
        const int next = s + STAGES - 1;
        if (next < slices) {
            A::load(tile_a + next % STAGES * A::elements, a, p.lda, m0, p.m, k0 + next * BK, k1, p.mask_period);
            B::load(tile_b + next % STAGES * B::elements, b, p.ldb, n0, p.n, k0 + next * BK, k1, 0);
        }
        cp_async_commit();
        const bf16* sa = tile_a + s % STAGES * A::elements;
        const bf16* sb = tile_b + s % STAGES * B::elements;
        EPI_UNROLL for (int k = 0; k < BK; k += 16) {
            uint32_t fa[MT][4], fb[NT][2];
            EPI_UNROLL for (int i = 0; i < MT; ++i) { // matrices: (m, k) (m+8, k) (m, k+8) (m+8, k+8)
                const int m = warp_m + i * 16 + matrix % 2 * 8, kk = k + matrix / 2 * 8;
                ldmatrix<4, A::transposed>(fa[i], sa + (A::transposed ? A::at(m, kk + row) : A::at(m + row, kk)));
            }
            EPI_UNROLL for (int j = 0; j < NT; j += 2) { // matrices: (n, k) (n, k+8) (n+8, k) (n+8, k+8)
                const int n = warp_n + j * 8 + matrix / 2 * 8, kk = k + matrix % 2 * 8;
                uint32_t pair[4];
                ldmatrix<4, B::transposed>(pair, sb + (B::transposed ? B::at(n, kk + row) : B::at(n + row, kk)));
                fb[j][0] = pair[0];
                fb[j][1] = pair[1];
                fb[j + 1][0] = pair[2];
                fb[j + 1][1] = pair[3];
            }
            EPI_UNROLL for (int i = 0; i < MT; ++i)
                EPI_UNROLL for (int j = 0; j < NT; ++j) mma_bf16(acc[i][j], fa[i], fb[j]);
        }
    }
    cp_async_wait<0>();

    if (gridDim.z > 1) out += size_t(blockIdx.z) * p.m * p.n;
    EPI_UNROLL for (int i = 0; i < MT; ++i) {
        EPI_UNROLL for (int j = 0; j < NT; ++j) {
            EPI_UNROLL for (int r = 0; r < 4; ++r) {
                const int m = m0 + warp_m + i * 16 + lane_id() / 4 + r / 2 * 8;
                const int n = n0 + warp_n + j * 8 + lane_id() % 4 * 2 + r % 2;
                if (m >= p.m || n >= p.n) continue;
                const size_t index = size_t(m) * p.ldc + n;
                float value = acc[i][j][r];
                if (bias != nullptr) value += bias[n];
                if (p.accumulate) value += out[index];
                out[index] = p.relu ? relu(value) : value;
            }
        }
    }
}

EPI_KERNEL(gemm_bf16_nt_large, 256, 1, (Gemm p, const bf16* a, const bf16* b, const float* bias, float* out)) {
    gemm_bf16<Lines<128>, Lines<128>, 128, 128, 2>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_bf16_nt_small, 256, 2, (Gemm p, const bf16* a, const bf16* b, const float* bias, float* out)) {
    gemm_bf16<Lines<64>, Lines<64>, 64, 64, 2>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_bf16_nn_large, 256, 1, (Gemm p, const bf16* a, const bf16* b, const float* bias, float* out)) {
    gemm_bf16<Lines<128>, Steps<128>, 128, 128, 2>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_bf16_nn_small, 256, 2, (Gemm p, const bf16* a, const bf16* b, const float* bias, float* out)) {
    gemm_bf16<Lines<64>, Steps<64>, 64, 64, 2>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_bf16_tn_large, 256, 1, (Gemm p, const bf16* a, const bf16* b, const float* bias, float* out)) {
    gemm_bf16<Steps<128>, Steps<128>, 128, 128, 2>(p, a, b, bias, out);
}
EPI_KERNEL(gemm_bf16_tn_small, 256, 2, (Gemm p, const bf16* a, const bf16* b, const float* bias, float* out)) {
    gemm_bf16<Steps<64>, Steps<64>, 64, 64, 2>(p, a, b, bias, out);
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
