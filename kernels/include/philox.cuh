// Philox4x32-10, word for word src/rng.rs: a number is a pure function of (seed, stream, step, element), so masks are
// regenerated instead of stored and are equal on every backend.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once
#include "common.cuh"

/// Four words from each of N 128-bit counters and a 64-bit key.
template <int N> EPI_DEVICE void philox(uint4 (&counter)[N], uint2 key) {
    EPI_UNROLL for (int round = 0; round < 10; ++round) {
        EPI_UNROLL for (int i = 0; i < N; ++i) {
            const uint64_t first = uint64_t(0xD2511F53u) * counter[i].x, second = uint64_t(0xCD9E8D57u) * counter[i].z;
            counter[i] = make_uint4(uint32_t(second >> 32) ^ counter[i].y ^ key.x, uint32_t(second),
                                    uint32_t(first >> 32) ^ counter[i].w ^ key.y, uint32_t(first));
        }
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
}

/// Block `block` of the stream (seed, stream, step): `rng::block`.
EPI_DEVICE uint4 philox_block(uint64_t seed, uint32_t stream, uint32_t step, uint64_t block) {
    uint4 counter[1] = {make_uint4(uint32_t(block), uint32_t(block >> 32), stream, step)};
    philox(counter, make_uint2(uint32_t(seed), uint32_t(seed >> 32)));
    return counter[0];
}

/// Dropout of one layer as kernels receive it; `threshold` and `scale` come from rng::Dropout. All zeros: no dropout
/// (test `threshold`). 24 bytes, mirrored in src/backend/cuda/params.rs.
struct DropoutParams {
    uint64_t seed;
    uint32_t stream;
    uint32_t threshold; // 16-bit halves below this are dropped
    float scale;        // of the kept ones
    uint32_t reserved;
};

/// Half `e % 8` of block `e / 8` (word (e % 8) / 2, low half first).
EPI_DEVICE uint32_t dropout_half(uint4 words, uint32_t e) {
    const uint32_t pair = (e >> 1) & 3u;
    const uint32_t word = pair == 0 ? words.x : pair == 1 ? words.y : pair == 2 ? words.z : words.w;
    return (word >> (16u * (e & 1u))) & 0xFFFFu;
}

/// Factor of element `e` at `step`: 0 when dropped, the scale when kept.
EPI_DEVICE float dropout_factor(const DropoutParams& p, uint32_t step, uint64_t e) {
    const uint4 words = philox_block(p.seed, p.stream, step, e >> 3);
    return dropout_half(words, uint32_t(e)) >= p.threshold ? p.scale : 0.0f;
}

/// Bit i (0..7) set = element `8 * block + i` is kept: one Philox call for eight elements.
EPI_DEVICE uint32_t dropout_keep8(const DropoutParams& p, uint32_t step, uint64_t block) {
    const uint4 w = philox_block(p.seed, p.stream, step, block);
    uint32_t keep = 0;
    EPI_UNROLL for (uint32_t i = 0; i < 8; ++i) keep |= uint32_t(dropout_half(w, i) >= p.threshold) << i;
    return keep;
}
