// What a card can do at best, for rooflines: multiply-adds that never leave their registers.
//
//   peak_fma   out [threads]   x = a x + b in 16 independent chains a thread: 32 rounds FLOPs a thread
//   peak_mma   out [threads]   m16n8k16 bf16 on 8 independent accumulators a warp: 32768 rounds FLOPs a warp
//
// Bytes: 4 a thread. Any grid of 256 threads a block; a few blocks a multiprocessor fill it. Deterministic.
#include "include/common.cuh"
#include "include/mma.cuh"

EPI_KERNEL(peak_fma, 256, 2, (int rounds, float a, float b, float* out)) {
    float x[16];
    EPI_UNROLL for (int i = 0; i < 16; ++i) x[i] = float(i);
    for (int round = 0; round < rounds; ++round) {
        EPI_UNROLL for (int i = 0; i < 16; ++i) x[i] = fmaf(a, x[i], b);
    }
    float sum = 0.0f;
    EPI_UNROLL for (int i = 0; i < 16; ++i) sum += x[i];
    out[size_t(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}

// Every element of both fragments is `bits` (a pair of bf16).
EPI_KERNEL(peak_mma, 256, 2, (int rounds, uint32_t bits, float* out)) {
    const uint32_t a[4] = {bits, bits, bits, bits}, b[2] = {bits, bits};
    float sums[8][4] = {};
    for (int round = 0; round < rounds; ++round) {
        EPI_UNROLL for (int i = 0; i < 8; ++i) mma_bf16(sums[i], a, b);
    }
    float sum = 0.0f;
    EPI_UNROLL for (int i = 0; i < 32; ++i) sum += sums[i / 4][i % 4];
    out[size_t(blockIdx.x) * blockDim.x + threadIdx.x] = sum;
}
