// General matrix product on tensor cores: bf16 inputs, f32 accumulation and output. Formula, storage letters (nt, nn, tn) and
// epilogues as in gemm.cu; Gemm says what `parts`, `split` and `sums` add.
// Operands are f32, rounded on their way into shared memory, or bf16 already. f32: addresses multiples of 16 bytes, pitches and
// the contiguous extent multiples of 4. bf16: pitches multiples of 8 with zeros in the padding (to_bf16_rows makes such copies).
//   gemm_bf16_<storage>_<BM>x<BN>           nt, nn: A f32, B (a weight) bf16;   tn: both f32
//   gemm_bf16_<storage>_<BM>x<BN>_packed    both bf16;   gemm_bf16_tn_<BM>x<BN>_mixed    A bf16, B f32
// FLOPs 2 m n k; bytes (4 or 2) (m k ceil(n/BN) + k n ceil(m/BM)) + 4 m n. Grid (ceil(n/BN), ceil(m/BM), k chunks).
// Tiles 128x128, 128x104 (256 threads) and 80x104 (160): the launcher takes the one that pads m and n least. Slices of 32 (the
// last of a range: 16, if that is enough), two stages in shared memory without bank conflicts, the next slice on its way
// meanwhile: by cp.async (bf16) or through registers (f32). mma.sync m16n8k16.
// Deterministic. Source: CUTLASS's pipeline and ldmatrix swizzle; PTX ISA for the fragments.
#include "include/async_copy.cuh"
#include "include/common.cuh"
#include "include/mma.cuh"
#include "include/params.cuh"

constexpr int BK = 32, CHUNK = 8, STAGES = 2; // a chunk: 8 elements, 16 bytes in shared memory

// Tile of an operand stored with its lines (rows of A, columns of B) as rows, k contiguous: [LINES][BK], swizzled.
template <int LINES> struct Lines {
    static constexpr bool transposed = false;
    static constexpr int elements = LINES * BK, chunks = elements / CHUNK;
    static EPI_DEVICE_MEMBER int line_of(int chunk) { return chunk / (BK / CHUNK); }
    static EPI_DEVICE_MEMBER int k_of(int chunk) { return chunk % (BK / CHUNK) * CHUNK; }
    static EPI_DEVICE_MEMBER int at(int line, int k) { return line * BK + ((k / CHUNK) ^ (line / 2 % 4)) * CHUNK; }
};

// Tile of an operand stored with k as rows, lines contiguous: [BK][an odd number of chunks].
template <int LINES> struct Steps {
    static constexpr bool transposed = true;
    static constexpr int pitch = LINES / CHUNK % 2 ? LINES : LINES + CHUNK;
    static constexpr int elements = pitch * BK, chunks = LINES * BK / CHUNK;
    static EPI_DEVICE_MEMBER int line_of(int chunk) { return chunk % (LINES / CHUNK) * CHUNK; }
    static EPI_DEVICE_MEMBER int k_of(int chunk) { return chunk / (LINES / CHUNK); }
    static EPI_DEVICE_MEMBER int at(int line, int k) { return k * pitch + line; }
};

// A thread's share of the slices of an operand from its line `line0` and step `k0` on; beyond `lines` and k1 there are zeros.
// `period`: Gemm::mask_period; with `ones` (where ONES allows it), line number `lines` is all ones.
template <class TILE, class T, int THREADS, bool ONES = false> struct Loader {
    using Tile = TILE;
    using Element = T;
    static constexpr bool rounds = sizeof(T) == 4;
    static constexpr int SHARE = ceil_div(Tile::chunks, THREADS), NEVER = 1 << 30;
    int from[SHARE];                       // element of the next slice
    int depth[SHARE][2], one[SHARE][2];    // step, inside a slice, of what each half of a chunk reads, and of its one; or NEVER
    int phase[SHARE];                      // step modulo the period
    float4 held[rounds ? SHARE : 1][2];

    static EPI_DEVICE_MEMBER int chunk_of(int i) { return int(threadIdx.x) + i * THREADS; }
    static EPI_DEVICE_MEMBER bool exists(int i) { return Tile::chunks % THREADS == 0 || chunk_of(i) < Tile::chunks; }
    static EPI_DEVICE_MEMBER int place(int i) { return Tile::at(Tile::line_of(chunk_of(i)), Tile::k_of(chunk_of(i))); }

    EPI_DEVICE_MEMBER Loader(int ld, int line0, int lines, int k0, int period, bool ones) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const int k = Tile::k_of(chunk_of(i)), line = line0 + Tile::line_of(chunk_of(i));
            const int near = exists(i) && line < lines ? line : line0; // somewhere to point at
            from[i] = Tile::transposed ? (k0 + k) * ld + near : near * ld + k0 + k;
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                const int first = Tile::transposed ? line + half * CHUNK / 2 : line;
                depth[i][half] = exists(i) && first < lines ? Tile::transposed ? k : k + half * CHUNK / 2 : NEVER;
                one[i][half] = ones && exists(i) && first == lines ? k : NEVER;
            }
            phase[i] = period != 0 ? (k0 + k) % period : 0;
        }
    }
    // Starts to fetch the next slice, of which `left` steps are inside, then moves on by `stride` elements.
    // What is bf16 already goes to `tile`.
    EPI_DEVICE_MEMBER void fetch(bf16* tile, const T* data, int left, int stride, int period) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const bool masked = period != 0 && phase[i] == period - 1;
            if constexpr (rounds) {
                EPI_UNROLL for (int half = 0; half < 2; ++half) {
                    held[i][half] = make_float4(ONES && one[i][half] < left ? 1.0f : 0.0f, 0.0f, 0.0f, 0.0f);
                    if (depth[i][half] < left && !masked) held[i][half] = reinterpret_cast<const float4*>(data + from[i])[half];
                }
            } else if (exists(i)) {
                const bool inside = depth[i][0] < left && !masked;
                cp_async<16>(tile + place(i), data + (inside ? from[i] : 0), inside ? 16 : 0);
            }
            from[i] += stride;
            if (period != 0)
                for (phase[i] += BK; phase[i] >= period;) phase[i] -= period;
        }
    }
    // Rounds what was fetched into `tile`.
    EPI_DEVICE_MEMBER void put(bf16* tile) const {
        if constexpr (rounds) {
            EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
                const float4 low = held[i][0], high = held[i][1];
                if (exists(i))
                    *reinterpret_cast<uint4*>(tile + place(i)) =
                        make_uint4(to_bf16x2(low.x, low.y).bits, to_bf16x2(low.z, low.w).bits, to_bf16x2(high.x, high.y).bits,
                                   to_bf16x2(high.z, high.w).bits);
            }
        }
    }
};

// acc += 16 steps from k on of the tiles; a warp's rows start at m0, its columns at n0.
template <class A, class B, int MT, int NT>
EPI_DEVICE void multiply(float (&acc)[MT][NT][4], const bf16* tile_a, const bf16* tile_b, int m0, int n0, int k) {
    const int matrix = lane_id() / 8, row = lane_id() % 8; // this lane's row address for ldmatrix
    uint32_t fa[MT][4];
    EPI_UNROLL for (int i = 0; i < MT; ++i) { // matrices: (m, k) (m+8, k) (m, k+8) (m+8, k+8)
        const int m = m0 + i * 16 + matrix % 2 * 8, kk = k + matrix / 2 * 8;
        ldmatrix<4, A::transposed>(fa[i], tile_a + (A::transposed ? A::at(m, kk + row) : A::at(m + row, kk)));
    }
    EPI_UNROLL for (int j = 0; j + 1 < NT; j += 2) { // matrices: (n, k) (n, k+8) (n+8, k) (n+8, k+8)
        const int n = n0 + j * 8 + matrix / 2 * 8, kk = k + matrix % 2 * 8;
        uint32_t pair[4];
        ldmatrix<4, B::transposed>(pair, tile_b + (B::transposed ? B::at(n, kk + row) : B::at(n + row, kk)));
        const uint32_t left[2] = {pair[0], pair[1]}, right[2] = {pair[2], pair[3]};
        EPI_UNROLL for (int i = 0; i < MT; ++i) {
            mma_bf16(acc[i][j], fa[i], left);
            mma_bf16(acc[i][j + 1], fa[i], right);
        }
    }
    if constexpr (NT % 2 == 1) { // matrices: (n, k) (n, k+8)
        const int n = n0 + (NT - 1) * 8, kk = k + matrix % 2 * 8;
        uint32_t last[2];
        ldmatrix<2, B::transposed>(last, tile_b + (B::transposed ? B::at(n, kk + row) : B::at(n + row, kk)));
        EPI_UNROLL for (int i = 0; i < MT; ++i) mma_bf16(acc[i][NT - 1], fa[i], last);
    }
}

template <class A, class B, int BM, int BN, int WARPS_M, int WARPS_N>
EPI_DEVICE void gemm_bf16(const Gemm& p, const typename A::Element* a, const typename B::Element* b, const float* bias, float* out) {
    constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N; // what a warp computes
    constexpr int MT = WM / 16, NT = WN / 8;
    static_assert(MT * 16 * WARPS_M == BM && NT * 8 * WARPS_N == BN, "warps share a tile evenly");
    SharedArena arena;
    bf16* tile_a = arena.take<bf16>(STAGES * A::Tile::elements);
    bf16* tile_b = arena.take<bf16>(STAGES * B::Tile::elements);
    const int m0 = int(blockIdx.y) * BM, n0 = int(blockIdx.x) * BN;
    const int k0 = int(blockIdx.z) * p.k_chunk, k1 = min(p.k, k0 + p.k_chunk);
    const int slices = k1 > k0 ? ceil_div(k1 - k0, BK) * p.parts : 0;
    const int warp_m = warp_id() % WARPS_M * WM, warp_n = warp_id() / WARPS_M * WN;

    const int period = A::Tile::transposed ? p.mask_period : 0;
    A load_a(p.lda, m0, p.m, k0, period, false);
    B load_b(p.ldb, n0, p.n, k0, 0, p.sums != 0);
    const int step_a = A::Tile::transposed ? p.lda : 1, step_b = B::Tile::transposed ? p.ldb : 1; // elements from k to k + 1
    int next = k0; // of the slice to fetch
    const auto fetch = [&](int stage) {
        // From the last slice of one part to the first of the next.
        const bool last = next + BK >= k1;
        const int stride_a = last ? p.part_a - (next - k0) * step_a : BK * step_a;
        const int stride_b = last ? p.part_b - (next - k0) * step_b : BK * step_b;
        load_a.fetch(tile_a + stage * A::Tile::elements, a, k1 - next, stride_a, period);
        load_b.fetch(tile_b + stage * B::Tile::elements, b, k1 - next, stride_b, 0);
        next = last ? k0 : next + BK;
    };
    const auto put = [&](int stage) {
        load_a.put(tile_a + stage * A::Tile::elements);
        load_b.put(tile_b + stage * B::Tile::elements);
    };

    float acc[MT][NT][4];
    EPI_UNROLL for (int i = 0; i < MT; ++i)
        EPI_UNROLL for (int j = 0; j < NT; ++j)
            EPI_UNROLL for (int r = 0; r < 4; ++r) acc[i][j][r] = 0.0f;

    if (slices > 0) {
        fetch(0);
        put(0);
    }
    cp_async_commit();
    int k = k0; // of the slice to multiply
    EPI_UNROLL_BY(1) for (int s = 0; s < slices; ++s) {
        cp_async_wait<0>();
        __syncthreads(); // slice s has arrived for all, and nobody reads the stage that is filled next
        if (s + 1 < slices) fetch((s + 1) % STAGES);
        cp_async_commit();
        const bf16* sa = tile_a + s % STAGES * A::Tile::elements;
        const bf16* sb = tile_b + s % STAGES * B::Tile::elements;
        multiply<typename A::Tile, typename B::Tile>(acc, sa, sb, warp_m, warp_n, 0);
        if (k1 - k > 16) multiply<typename A::Tile, typename B::Tile>(acc, sa, sb, warp_m, warp_n, 16);
        k = k + BK < k1 ? k + BK : k0;
        if (s + 1 < slices) put((s + 1) % STAGES);
    }
    cp_async_wait<0>();

    if (gridDim.z > 1) out += size_t(blockIdx.z) * p.m * p.ldc;
    const int columns = p.n + p.sums;
    const bool pairs = p.ldc % 2 == 0 && reinterpret_cast<uintptr_t>(out) % 8 == 0;
    EPI_UNROLL for (int i = 0; i < MT; ++i) {
        EPI_UNROLL for (int j = 0; j < NT; ++j) {
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                const int m = m0 + warp_m + i * 16 + lane_id() / 4 + half * 8;
                const int n = n0 + warp_n + j * 8 + lane_id() % 4 * 2;
                if (m >= p.m || n >= columns) continue;
                float* to = out + size_t(m) * p.ldc + n + (n >= p.split ? p.jump : 0);
                float value[2];
                EPI_UNROLL for (int r = 0; r < 2; ++r) {
                    if (n + r >= columns) break;
                    value[r] = acc[i][j][2 * half + r];
                    if (bias != nullptr) value[r] += bias[n + r];
                    if (p.accumulate) value[r] += to[r];
                    if (p.relu) value[r] = relu(value[r]);
                }
                if (pairs && n + 1 < columns) {
                    *reinterpret_cast<float2*>(to) = make_float2(value[0], value[1]);
                } else {
                    to[0] = value[0];
                    if (n + 1 < columns) to[1] = value[1];
                }
            }
        }
    }
}

#define GEMM(name, blocks, StoredA, A, StoredB, B, BM, BN, WARPS_M, WARPS_N)                                            \
    EPI_KERNEL(gemm_bf16_##name, 32 * WARPS_M * WARPS_N, blocks, (Gemm p, const A* a, const B* b, const float* bias, float* out)) { \
        constexpr int THREADS = 32 * WARPS_M * WARPS_N;                                                                \
        using LoadA = Loader<StoredA<BM>, A, THREADS>;                                                                 \
        using LoadB = Loader<StoredB<BN>, B, THREADS, StoredA<BM>::transposed>;                                        \
        gemm_bf16<LoadA, LoadB, BM, BN, WARPS_M, WARPS_N>(p, a, b, bias, out);                                         \
    }

GEMM(nt_128x128, 2, Lines, float, Lines, bf16, 128, 128, 4, 2)
GEMM(nt_128x104, 2, Lines, float, Lines, bf16, 128, 104, 8, 1)
GEMM(nt_80x104, 3, Lines, float, Lines, bf16, 80, 104, 5, 1)
GEMM(nt_128x128_packed, 2, Lines, bf16, Lines, bf16, 128, 128, 4, 2)
GEMM(nt_128x104_packed, 2, Lines, bf16, Lines, bf16, 128, 104, 8, 1)
GEMM(nt_80x104_packed, 3, Lines, bf16, Lines, bf16, 80, 104, 5, 1)
GEMM(nn_128x128, 1, Lines, float, Steps, bf16, 128, 128, 4, 2)
GEMM(nn_128x104, 2, Lines, float, Steps, bf16, 128, 104, 8, 1)
GEMM(nn_80x104, 3, Lines, float, Steps, bf16, 80, 104, 5, 1)
GEMM(nn_128x128_packed, 2, Lines, bf16, Steps, bf16, 128, 128, 4, 2)
GEMM(nn_128x104_packed, 2, Lines, bf16, Steps, bf16, 128, 104, 8, 1)
GEMM(nn_80x104_packed, 3, Lines, bf16, Steps, bf16, 80, 104, 5, 1)
GEMM(tn_128x128, 1, Steps, float, Steps, float, 128, 128, 4, 2)
GEMM(tn_128x104, 1, Steps, float, Steps, float, 128, 104, 8, 1)
GEMM(tn_80x104, 1, Steps, float, Steps, float, 80, 104, 5, 1)
GEMM(tn_128x128_mixed, 1, Steps, bf16, Steps, float, 128, 128, 4, 2)
GEMM(tn_128x104_mixed, 1, Steps, bf16, Steps, float, 128, 104, 8, 1)
GEMM(tn_80x104_mixed, 1, Steps, bf16, Steps, float, 80, 104, 5, 1)
GEMM(tn_128x128_packed, 2, Steps, bf16, Steps, bf16, 128, 128, 4, 2)
GEMM(tn_128x104_packed, 2, Steps, bf16, Steps, bf16, 128, 104, 8, 1)
GEMM(tn_80x104_packed, 3, Steps, bf16, Steps, bf16, 80, 104, 5, 1)

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
