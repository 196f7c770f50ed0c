// One BM x BN tile of C = A·B in f32 by 256 threads, each with a (BM/16) x (BN/16) piece in registers. Slices of BK
// columns are fetched into registers while the previous slice is multiplied, so one barrier a slice is enough.
//
// A and B are read through loaders: `float operator()(int line, int k)` gives element (m=line,k) of A or (k,n=line) of
// B, zero outside; `k_fastest` says whether neighbouring k are neighbours in memory. Every element of C is one chain of
// fused multiply-adds in the order of k, whatever the tile: tile shapes do not change results.
#pragma once
#include "params.cuh"

// A matrix stored with its lines (rows of A, columns of B) as rows of pitch `ld`.
struct LinesLoader {
    static constexpr bool k_fastest = true;
    const float* data;
    int lines, k_end, ld;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        return line < lines && k < k_end ? data[size_t(line) * ld + k] : 0.0f;
    }
};

// A matrix stored with k as rows of pitch `ld`; rows with k % mask_period == mask_period - 1 are zero.
struct StepsLoader {
    static constexpr bool k_fastest = false;
    const float* data;
    int lines, k_end, ld, mask_period;
    EPI_DEVICE_MEMBER float operator()(int line, int k) const {
        if (line >= lines || k >= k_end) return 0.0f;
        if (mask_period != 0 && k % mask_period == mask_period - 1) return 0.0f;
        return data[size_t(k) * ld + line];
    }
};

template <int BM, int BN, int BK>
struct GemmTile {
    static constexpr int TM = BM / 16, TN = BN / 16;
    static constexpr int PM = BM + 4, PN = BN + 4; // padded pitches: 16-byte aligned, fewer bank conflicts
    static constexpr int NA = BM * BK / 256, NB = BN * BK / 256;
    static constexpr int shared_floats = 2 * BK * (PM + PN);

    float acc[TM][TN];

    template <class L, int LINES>
    static EPI_DEVICE_MEMBER int line_of(int i) {
        const int index = int(threadIdx.x) + i * 256;
        return L::k_fastest ? index / BK : index % LINES;
    }
    template <class L, int LINES>
    static EPI_DEVICE_MEMBER int k_of(int i) {
        const int index = int(threadIdx.x) + i * 256;
        return L::k_fastest ? index % BK : index / LINES;
    }
    // Row (column) of C that piece i (j) of this thread belongs to: groups of four, 64 apart.
    static EPI_DEVICE_MEMBER int row_of(int i) { return (i / 4) * 64 + int(threadIdx.x) / 16 * 4 + i % 4; }
    static EPI_DEVICE_MEMBER int column_of(int j) { return (j / 4) * 64 + int(threadIdx.x) % 16 * 4 + j % 4; }

    template <class A, class B>
    EPI_DEVICE_MEMBER void run(const A& a, const B& b, int m0, int n0, int k0, int k1, float* shared) {
        float* sa = shared;
        float* sb = shared + 2 * BK * PM;
        float fetch_a[NA], fetch_b[NB];
 EPI_UNROLL for (int i = 0; i < TM; ++i)
 EPI_UNROLL for (int j = 0; j < TN; ++j) acc[i][j] = 0.0f;
        int buffer = 0;
        for (int k = k0 - BK; k < k1; k += BK) { // the first round only fetches
            const bool more = k + BK < k1;
            if (more) {
 EPI_UNROLL for (int i = 0; i < NA; ++i) fetch_a[i] = a(m0 + line_of<A, BM>(i), k + BK + k_of<A, BM>(i));
 EPI_UNROLL for (int i = 0; i < NB; ++i) fetch_b[i] = b(n0 + line_of<B, BN>(i), k + BK + k_of<B, BN>(i));
            }
            if (k >= k0) multiply(sa + buffer * BK * PM, sb + buffer * BK * PN);
            buffer ^= 1;
            if (more) {
 EPI_UNROLL for (int i = 0; i < NA; ++i) sa[(buffer * BK + k_of<A, BM>(i)) * PM + line_of<A, BM>(i)] = fetch_a[i];
 EPI_UNROLL for (int i = 0; i < NB; ++i) sb[(buffer * BK + k_of<B, BN>(i)) * PN + line_of<B, BN>(i)] = fetch_b[i];
            }
            __syncthreads();
        }
    }

    EPI_DEVICE_MEMBER void multiply(const float* sa, const float* sb) {
 EPI_UNROLL for (int k = 0; k < BK; ++k) {
            float4 a[TM / 4], b[TN / 4];
 EPI_UNROLL for (int i = 0; i < TM / 4; ++i) a[i] = *reinterpret_cast<const float4*>(sa + k * PM + row_of(i * 4));
 EPI_UNROLL for (int j = 0; j < TN / 4; ++j) b[j] = *reinterpret_cast<const float4*>(sb + k * PN + column_of(j * 4));
 EPI_UNROLL for (int i = 0; i < TM / 4; ++i) {
 EPI_UNROLL for (int j = 0; j < TN / 4; ++j) {
                    rank_one(acc[i * 4 + 0] + j * 4, a[i].x, b[j]);
                    rank_one(acc[i * 4 + 1] + j * 4, a[i].y, b[j]);
                    rank_one(acc[i * 4 + 2] + j * 4, a[i].z, b[j]);
                    rank_one(acc[i * 4 + 3] + j * 4, a[i].w, b[j]);
                }
            }
        }
    }

    static EPI_DEVICE_MEMBER void rank_one(float* c, float a, const float4& b) {
        c[0] = fmaf(a, b.x, c[0]);
        c[1] = fmaf(a, b.y, c[1]);
        c[2] = fmaf(a, b.z, c[2]);
        c[3] = fmaf(a, b.w, c[3]);
    }
};
