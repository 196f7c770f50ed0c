// Philox4x32-10, word for word src/rng.rs: a number is a pure function of (seed, stream, step, element), so masks are
// regenerated instead of stored and are equal on every backend.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once
#include "common.cuh"

/// Four words from a 128-bit counter and a 64-bit key.
EPI_DEVICE uint4 philox(uint4 counter, uint2 key) {
    EPI_UNROLL for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

/// Block `block` of the stream (seed, stream, step): `rng::block`.
EPI_DEVICE uint4 philox_block(uint64_t seed, uint32_t stream, uint32_t step, uint64_t block) {
    return philox(make_uint4(uint32_t(block), uint32_t(block >> 32), stream, step),
                  make_uint2(uint32_t(seed), uint32_t(seed >> 32)));
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
