// Tiles of a matrix product on tensor cores: bf16 inputs, f32 sums. Used by gemm_bf16.cu, whose header describes operands and
// pipeline, and by conv1d_bf16.cu.
// Source: CUTLASS's pipeline and ldmatrix swizzle; PTX ISA for the fragments.
#pragma once
#include "async_copy.cuh"
#include "common.cuh"
#include "mma.cuh"
#include "params.cuh"

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

// A thread's share of a slice of an operand of type T: where its chunks go, and what is on its way to them.
template <class TILE, class T, int THREADS> struct Share {
    using Tile = TILE;
    using Element = T;
    static constexpr bool rounds = sizeof(T) == 4;
    static constexpr int SHARE = ceil_div(Tile::chunks, THREADS), NEVER = 1 << 30;
    float4 held[rounds ? SHARE : 1][2];

    static EPI_DEVICE_MEMBER int chunk_of(int i) { return int(threadIdx.x) + i * THREADS; }
    static EPI_DEVICE_MEMBER bool exists(int i) { return Tile::chunks % THREADS == 0 || chunk_of(i) < Tile::chunks; }
    static EPI_DEVICE_MEMBER int place(int i) { return Tile::at(Tile::line_of(chunk_of(i)), Tile::k_of(chunk_of(i))); }

    // Step, inside a slice, of what half a chunk reads; NEVER where it is beyond `lines`.
    static EPI_DEVICE_MEMBER int depth_of(int i, int half, int line0, int lines) {
        const int k = Tile::k_of(chunk_of(i)), line = line0 + Tile::line_of(chunk_of(i));
        const int first = Tile::transposed ? line + half * CHUNK / 2 : line;
        return exists(i) && first < lines ? Tile::transposed ? k : k + half * CHUNK / 2 : NEVER;
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

// Slices of a matrix of pitch `ld` from its line `line0` and step `k0` on; beyond `lines` and k1 there are zeros.
// `period`: Gemm::mask_period; with `ones` (where ONES allows it), line number `lines` is all ones.
template <class TILE, class T, int THREADS, bool ONES = false> struct Loader : Share<TILE, T, THREADS> {
    using Base = Share<TILE, T, THREADS>;
    using Tile = TILE;
    using Base::SHARE, Base::NEVER, Base::held, Base::exists, Base::chunk_of;
    int from[SHARE];                    // element of the next slice
    int depth[SHARE][2], one[SHARE][2]; // of each half of a chunk (depth_of), and of its one
    int phase[SHARE];                   // step modulo the period

    EPI_DEVICE_MEMBER Loader(int ld, int line0, int lines, int k0, int period = 0, bool ones = false) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const int k = Tile::k_of(chunk_of(i)), line = line0 + Tile::line_of(chunk_of(i));
            const int near = exists(i) && line < lines ? line : line0; // somewhere to point at
            from[i] = Tile::transposed ? (k0 + k) * ld + near : near * ld + k0 + k;
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                const int first = Tile::transposed ? line + half * CHUNK / 2 : line;
                depth[i][half] = Base::depth_of(i, half, line0, lines);
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
            if constexpr (Base::rounds) {
                EPI_UNROLL for (int half = 0; half < 2; ++half) {
                    held[i][half] = make_float4(ONES && one[i][half] < left ? 1.0f : 0.0f, 0.0f, 0.0f, 0.0f);
                    if (depth[i][half] < left && !masked) held[i][half] = reinterpret_cast<const float4*>(data + from[i])[half];
                }
            } else if (exists(i)) {
                const bool inside = depth[i][0] < left && !masked;
                cp_async<16>(tile + Base::place(i), data + (inside ? from[i] : 0), inside ? 16 : 0);
            }
            from[i] += stride;
            if (period != 0)
                for (phase[i] += BK; phase[i] >= period;) phase[i] -= period;
        }
    }
};

// Slices of two matrices side by side whose rows are steps: `columns` of the first, with multiples of 4 columns both, then
// those of the second, zeros where a step modulo `period` is `edge`; column number `lines` is all ones with `ones`.
template <class TILE, int THREADS> struct BesideLoader : Share<TILE, float, THREADS> {
    using Base = Share<TILE, float, THREADS>;
    using Tile = TILE;
    using Base::SHARE, Base::NEVER, Base::held, Base::chunk_of;
    const float* at[SHARE][2]; // of the next slice, for each half of a chunk
    int depth[SHARE][2], one[SHARE][2], stride[SHARE][2];
    int phase[SHARE], masked[SHARE][2]; // step modulo the period, and at which one there are zeros
    int period;

    EPI_DEVICE_MEMBER BesideLoader(const GemmBeside& p, const float* first, const float* second, int line0, int k0)
        : period(p.period) {
        static_assert(Tile::transposed, "rows are steps");
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const int k = Tile::k_of(chunk_of(i));
            phase[i] = (k0 + k) % period;
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                const int column = line0 + Tile::line_of(chunk_of(i)) + half * CHUNK / 2;
                const bool beside = column >= p.columns;
                const int pitch = beside ? p.pitch : p.gemm.ldb;
                depth[i][half] = Base::depth_of(i, half, line0, p.gemm.n);
                one[i][half] = p.gemm.sums && Base::exists(i) && column == p.gemm.n ? k : NEVER;
                masked[i][half] = beside ? p.edge : NEVER;
                stride[i][half] = BK * pitch;
                at[i][half] = (beside ? second - p.columns : first) + size_t(k0 + k) * pitch + column;
            }
        }
    }
    EPI_DEVICE_MEMBER void fetch(bf16*, const float*, int left, int, int) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                held[i][half] = make_float4(one[i][half] < left ? 1.0f : 0.0f, 0.0f, 0.0f, 0.0f);
                if (depth[i][half] < left && phase[i] != masked[i][half])
                    held[i][half] = *reinterpret_cast<const float4*>(at[i][half]);
                at[i][half] += stride[i][half];
            }
            for (phase[i] += BK; phase[i] >= period;) phase[i] -= period;
        }
    }
};

// Windows of sequences, row after row as a matrix: row b rows + r holds elements r pitch + origin on of the `sample` elements of
// sequence b, zeros where it leaves them. `pitch`, `origin` and `sample` are multiples of 4.
struct Windows {
    int rows, pitch, origin, sample;
};

// Slices of such a matrix, whose rows are the operand's lines or, transposed, its steps.
template <class TILE, int THREADS> struct WindowLoader : Share<TILE, float, THREADS> {
    using Base = Share<TILE, float, THREADS>;
    using Tile = TILE;
    using Base::SHARE, Base::held, Base::chunk_of;
    Windows w;
    int from[SHARE], inside[SHARE]; // element of the next slice, in all sequences and in its own
    int depth[SHARE][2];
    int row[SHARE]; // r

    EPI_DEVICE_MEMBER WindowLoader(const Windows& windows, int line0, int lines, int k0) : w(windows) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            const int k = k0 + Tile::k_of(chunk_of(i)), line = line0 + Tile::line_of(chunk_of(i));
            const int window = Tile::transposed ? k : line, element = Tile::transposed ? line : k;
            row[i] = window % w.rows;
            inside[i] = row[i] * w.pitch + w.origin + element;
            from[i] = window / w.rows * w.sample + inside[i];
            EPI_UNROLL for (int half = 0; half < 2; ++half) depth[i][half] = Base::depth_of(i, half, line0, lines);
        }
    }
    EPI_DEVICE_MEMBER void fetch(bf16*, const float* data, int left, int stride, int) {
        EPI_UNROLL for (int i = 0; i < SHARE; ++i) {
            EPI_UNROLL for (int half = 0; half < 2; ++half) {
                held[i][half] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (depth[i][half] < left && uint32_t(inside[i] + half * CHUNK / 2) < uint32_t(w.sample))
                    held[i][half] = reinterpret_cast<const float4*>(data + from[i])[half];
            }
            from[i] += stride;
            inside[i] += stride;
            if constexpr (Tile::transposed) {
                for (row[i] += BK; row[i] >= w.rows; row[i] -= w.rows) {
                    inside[i] -= w.rows * w.pitch;
                    from[i] += w.sample - w.rows * w.pitch;
                }
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

// Where element (m,n) of C goes and what becomes of it there, element `at` of the output: row m, and ReLU if asked for.
struct PlainOutput {
    bool positive;
    EPI_DEVICE_MEMBER int row(int m) const { return m; }
    EPI_DEVICE_MEMBER float finish(float value, size_t) const { return positive ? relu(value) : value; }
};

// One tile of C. The loaders start at its rows, its columns and its chunk of k.
template <int BM, int BN, int WARPS_M, int WARPS_N, class A, class B, class Output>
EPI_DEVICE void gemm_bf16(const Gemm& p, A load_a, const typename A::Element* a, B load_b, const typename B::Element* b,
                          const float* bias, float* out, const Output& output) {
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
                const int row = output.row(m);
                if (m >= p.m || n >= columns || row < 0) continue;
                const size_t at = size_t(row) * p.ldc + n + (n >= p.split ? p.jump : 0);
                float* to = out + at;
                float value[2];
                EPI_UNROLL for (int r = 0; r < 2; ++r) {
                    if (n + r >= columns) break;
                    value[r] = acc[i][j][2 * half + r];
                    if (bias != nullptr) value[r] += bias[n + r];
                    if (p.accumulate) value[r] += to[r];
                    value[r] = output.finish(value[r], at + r);
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
