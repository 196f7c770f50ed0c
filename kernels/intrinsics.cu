// One kernel for each intrinsic of kernels/include, alone: the emulator's idea of every fragment layout and PTX instruction is
// settled by running tests/emulator/intrinsics.rs once on a real GPU. One warp each, nothing fast, all deterministic.
//
//   intrinsic_mma_bf16   a [16,16] b [8,16] (n-major) bf16, c [16,8] -> d [16,8]      d = a b^T + c
//   intrinsic_mma_tf32   a [16,8]  b [8,8]  (n-major) f32,  c [16,8] -> d [16,8]
//   intrinsic_ldmatrix*  inp [N,8,8] 16-bit -> out [32,N] registers
//   intrinsic_cp_async*  inp [32,BYTES] valid [32] -> out [32,BYTES]
//   intrinsic_shuffles   inp [32] -> out [4,32] (xor 5, up 3, down 3, index 7 within groups of 16)
//   intrinsic_votes      inp [32] -> out [4] (ballot, any, all, count over the block)
//   intrinsic_round      inp [n] f32 -> out [n] bf16 bits, pairs [n/2], tf32 [n]
//   intrinsic_exp2       inp [n] f32 -> out [n]
//   intrinsic_philox     out [n,4]   blocks 0..n of (seed, stream, step)
//   intrinsic_dropout    out [n]     factors of elements 0..n
#include "async_copy.cuh"
#include "common.cuh"
#include "mma.cuh"
#include "params.cuh"

EPI_KERNEL(intrinsic_mma_bf16, 32, 1, (const uint16_t* a, const uint16_t* b, const float* c, float* d)) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    auto pair = [](const uint16_t* row, int k) { return uint32_t(row[k]) | uint32_t(row[k + 1]) << 16; };
    const uint32_t fa[4] = {pair(a + g * 16, 2 * t), pair(a + (g + 8) * 16, 2 * t), pair(a + g * 16, 2 * t + 8),
                            pair(a + (g + 8) * 16, 2 * t + 8)};
    const uint32_t fb[2] = {pair(b + g * 16, 2 * t), pair(b + g * 16, 2 * t + 8)};
    float acc[4];
    for (int i = 0; i < 4; ++i) acc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    mma_bf16(acc, fa, fb);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

EPI_KERNEL(intrinsic_mma_tf32, 32, 1, (const float* a, const float* b, const float* c, float* d)) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const uint32_t fa[4] = {to_tf32(a[g * 8 + t]), to_tf32(a[(g + 8) * 8 + t]), to_tf32(a[g * 8 + t + 4]), to_tf32(a[(g + 8) * 8 + t + 4])};
    const uint32_t fb[2] = {to_tf32(b[g * 8 + t]), to_tf32(b[g * 8 + t + 4])};
    float acc[4];
    for (int i = 0; i < 4; ++i) acc[i] = c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    mma_tf32(acc, fa, fb);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[i];
}

template <int N, bool TRANSPOSED> EPI_DEVICE void ldmatrix_alone(const uint16_t* inp, uint32_t* out) {
    EPI_SHARED(uint16_t, tile, N * 64);
    for (int i = lane_id(); i < N * 64; i += WARP) tile[i] = inp[i];
    __syncwarp();
    uint32_t r[N];
    ldmatrix<N, TRANSPOSED>(r, tile + lane_id() % (8 * N) * 8);
    for (int i = 0; i < N; ++i) out[lane_id() * N + i] = r[i];
}
EPI_KERNEL(intrinsic_ldmatrix_x1, 32, 1, (const uint16_t* inp, uint32_t* out)) { ldmatrix_alone<1, false>(inp, out); }
EPI_KERNEL(intrinsic_ldmatrix_x2, 32, 1, (const uint16_t* inp, uint32_t* out)) { ldmatrix_alone<2, false>(inp, out); }
EPI_KERNEL(intrinsic_ldmatrix_x4, 32, 1, (const uint16_t* inp, uint32_t* out)) { ldmatrix_alone<4, false>(inp, out); }
EPI_KERNEL(intrinsic_ldmatrix_x1_trans, 32, 1, (const uint16_t* inp, uint32_t* out)) { ldmatrix_alone<1, true>(inp, out); }
EPI_KERNEL(intrinsic_ldmatrix_x2_trans, 32, 1, (const uint16_t* inp, uint32_t* out)) { ldmatrix_alone<2, true>(inp, out); }
EPI_KERNEL(intrinsic_ldmatrix_x4_trans, 32, 1, (const uint16_t* inp, uint32_t* out)) { ldmatrix_alone<4, true>(inp, out); }

template <int BYTES> EPI_DEVICE void cp_async_alone(const unsigned char* inp, const int* valid, unsigned char* out) {
    SharedArena arena;
    unsigned char* tile = arena.take<unsigned char>(WARP * BYTES);
    cp_async<BYTES>(tile + lane_id() * BYTES, inp + lane_id() * BYTES, valid[lane_id()]);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (int i = lane_id(); i < WARP * BYTES; i += WARP) out[i] = tile[i];
}
EPI_KERNEL(intrinsic_cp_async_4, 32, 1, (const unsigned char* inp, const int* valid, unsigned char* out)) { cp_async_alone<4>(inp, valid, out); }
EPI_KERNEL(intrinsic_cp_async_8, 32, 1, (const unsigned char* inp, const int* valid, unsigned char* out)) { cp_async_alone<8>(inp, valid, out); }
EPI_KERNEL(intrinsic_cp_async_16, 32, 1, (const unsigned char* inp, const int* valid, unsigned char* out)) { cp_async_alone<16>(inp, valid, out); }

EPI_KERNEL(intrinsic_shuffles, 32, 1, (const int* inp, int* out)) {
    const int lane = lane_id(), x = inp[lane];
    out[lane] = __shfl_xor_sync(FULL_MASK, x, 5);
    out[32 + lane] = __shfl_up_sync(FULL_MASK, x, 3);
    out[64 + lane] = __shfl_down_sync(FULL_MASK, x, 3);
    out[96 + lane] = __shfl_sync(FULL_MASK, x, 7, 16);
}

EPI_KERNEL(intrinsic_votes, 32, 1, (const int* inp, unsigned* out)) {
    const int yes = inp[lane_id()] != 0;
    const unsigned ballot = __ballot_sync(FULL_MASK, yes), any = __any_sync(FULL_MASK, yes), all = __all_sync(FULL_MASK, yes);
    const unsigned count = __syncthreads_count(yes);
    if (lane_id() == 0) {
        out[0] = ballot;
        out[1] = any != 0;
        out[2] = all != 0;
        out[3] = count;
    }
}

EPI_KERNEL(intrinsic_round, 256, 1, (int n, const float* inp, uint16_t* out, uint32_t* pairs, uint32_t* tf32)) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        out[i] = to_bf16(inp[i]).bits;
        tf32[i] = to_tf32(inp[i]);
        if (i % 2 == 0) pairs[i / 2] = to_bf16x2(inp[i], inp[i + 1]).bits;
    }
}

EPI_KERNEL(intrinsic_exp2, 256, 1, (int n, const float* inp, float* out)) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = exp2_approx(inp[i]);
}

EPI_KERNEL(intrinsic_philox, 256, 1, (uint64_t seed, uint32_t stream, uint32_t step, int n, uint4* out)) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = philox_block(seed, stream, step, (uint64_t(i) << 32) | uint32_t(i));
}

EPI_KERNEL(intrinsic_dropout, 256, 1, (DropoutParams p, const StepState* state, int n, float* out)) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = dropout_factor(p, state->philox_step, uint64_t(i));
}
