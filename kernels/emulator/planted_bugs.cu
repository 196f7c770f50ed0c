// Kernels that are wrong on purpose, and their correct siblings: the emulator's own tests. Never compiled for a GPU.
//
// tests/emulator/planted.rs launches each with one to four blocks of 64 threads and expects the line marked with the kernel's
// name in the report: `BUG name` stands on the line that must be named.
#include "async_copy.cuh"
#include "common.cuh"
#include "mma.cuh"

// ---- barriers -------------------------------------------------------------------------------------------------------------
EPI_KERNEL(bug_no_barrier, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    tile[threadIdx.x] = inp[threadIdx.x];
    out[threadIdx.x] = tile[63 - threadIdx.x]; // BUG bug_no_barrier
}

EPI_KERNEL(bug_no_second_barrier, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    float sum = 0.0f;
    for (int round = 0; round < 4; ++round) {
        tile[threadIdx.x] = inp[threadIdx.x] + float(round); // BUG bug_no_second_barrier
        __syncthreads();
        sum += tile[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

EPI_KERNEL(bug_no_warp_barrier, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    tile[threadIdx.x] = inp[threadIdx.x];
    out[threadIdx.x] = tile[threadIdx.x ^ 1]; // BUG bug_no_warp_barrier
}

EPI_KERNEL(bug_warp_barrier_for_block, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    tile[threadIdx.x] = inp[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = tile[63 - threadIdx.x]; // BUG bug_warp_barrier_for_block
}

EPI_KERNEL(bug_divergent_barrier, 64, 1, (const float* inp, float* out)) {
    if (threadIdx.x < 40) __syncthreads(); // BUG bug_divergent_barrier
    out[threadIdx.x] = inp[threadIdx.x];
}

EPI_KERNEL(bug_two_barriers, 64, 1, (const float* inp, float* out)) {
    out[threadIdx.x] = inp[threadIdx.x];
    if (threadIdx.x < 32)
        __syncthreads(); // BUG bug_two_barriers
    else
        __syncthreads();
}

EPI_KERNEL(bug_partial_shuffle, 64, 1, (const float* inp, float* out)) {
    float x = inp[threadIdx.x];
    if (threadIdx.x % 32 < 16) x += __shfl_xor_sync(FULL_MASK, x, 1); // BUG bug_partial_shuffle
    __syncthreads();
    out[threadIdx.x] = x;
}

EPI_KERNEL(bug_two_shuffles, 64, 1, (const float* inp, float* out)) {
    float x = inp[threadIdx.x];
    if (threadIdx.x % 32 < 16)
        x += __shfl_xor_sync(FULL_MASK, x, 1); // BUG bug_two_shuffles
    else
        x -= __shfl_xor_sync(FULL_MASK, x, 1);
    out[threadIdx.x] = x;
}

EPI_KERNEL(bug_wrong_mask, 64, 1, (const float* inp, float* out)) {
    out[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, inp[threadIdx.x], 1); // BUG bug_wrong_mask
}

// ---- cp.async ----------------------------------------------------------------------------------------------------------------
EPI_KERNEL(bug_no_wait, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    cp_async<4>(tile + threadIdx.x, inp + threadIdx.x);
    cp_async_commit();
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x]; // BUG bug_no_wait
}

EPI_KERNEL(bug_waits_for_fewer, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 128);
    for (int half = 0; half < 2; ++half) {
        cp_async<4>(tile + half * 64 + threadIdx.x, inp + threadIdx.x);
        cp_async_commit();
    }
    cp_async_wait<1>();
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x] + tile[64 + threadIdx.x]; // BUG bug_waits_for_fewer
}

EPI_KERNEL(bug_no_barrier_after_wait, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    cp_async<4>(tile + threadIdx.x, inp + threadIdx.x);
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = tile[63 - threadIdx.x]; // BUG bug_no_barrier_after_wait
}

EPI_KERNEL(bug_refills_while_read, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    float sum = 0.0f;
    for (int round = 0; round < 3; ++round) {
        cp_async<4>(tile + threadIdx.x, inp + threadIdx.x); // BUG bug_refills_while_read
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        sum += tile[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

// ---- bounds, initialisation, alignment ---------------------------------------------------------------------------------------
EPI_KERNEL(bug_global_read, 64, 1, (const float* inp, float* out)) {
    out[threadIdx.x] = inp[threadIdx.x + 1]; // BUG bug_global_read
}

EPI_KERNEL(bug_global_write, 64, 1, (const float* inp, float* out)) {
    const float x = inp[threadIdx.x];
    out[int(threadIdx.x) - 1] = x; // BUG bug_global_write
}

EPI_KERNEL(bug_shared_read, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    tile[threadIdx.x] = inp[threadIdx.x];
    __syncthreads();
    const int next = threadIdx.x + 1;
    out[threadIdx.x] = tile[next]; // BUG bug_shared_read
}

EPI_KERNEL(bug_shared_write, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 63);
    const int at = threadIdx.x;
    tile[at] = inp[at]; // BUG bug_shared_write
    __syncthreads();
    out[at] = tile[at];
}

EPI_KERNEL(bug_uninitialised_shared, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    if (threadIdx.x != 17) tile[threadIdx.x] = inp[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x]; // BUG bug_uninitialised_shared
}

EPI_KERNEL(bug_uninitialised_global, 64, 1, (const float* inp, float* out)) {
    out[threadIdx.x] += inp[threadIdx.x]; // BUG bug_uninitialised_global
}

EPI_KERNEL(bug_misaligned, 64, 1, (const float* inp, float* out)) {
    const float4 four = *reinterpret_cast<const float4*>(inp + (threadIdx.x % 8) + 1); // BUG bug_misaligned
    out[threadIdx.x] = four.x + four.w;
}

EPI_KERNEL(bug_null, 64, 1, (const float* inp, float* out)) {
    const float* none = inp ? nullptr : inp;
    out[threadIdx.x] = none[threadIdx.x]; // BUG bug_null
}

EPI_KERNEL(bug_dynamic_shared, 64, 1, (const float* inp, float* out)) {
    SharedArena arena;
    float* tile = arena.take<float>(65); // BUG bug_dynamic_shared
    tile[threadIdx.x] = inp[threadIdx.x];
    out[threadIdx.x] = tile[threadIdx.x];
}

EPI_KERNEL(bug_division, 64, 1, (const float* inp, float* out)) {
    const int zero = int(inp[0]) - 1;
    out[threadIdx.x] = float(int(threadIdx.x) / zero); // the report says "near" a line of this kernel
}

EPI_KERNEL(bug_stack, 64, 1, (const float* inp, float* out)) {
    float rows[32 * 1024];
    for (int i = 0; i < 32 * 1024; ++i) rows[i] = float(i);
    out[threadIdx.x] = rows[int(inp[threadIdx.x]) & 1023]; // the report says that the stack is full
}

// ---- blocks ---------------------------------------------------------------------------------------------------------------------
EPI_KERNEL(bug_blocks_write, 64, 1, (const float* inp, float* out)) {
    out[threadIdx.x] = inp[threadIdx.x]; // BUG bug_blocks_write
}

EPI_KERNEL(bug_blocks_read, 64, 1, (const float* inp, float* out)) {
    if (blockIdx.x == 0) out[threadIdx.x] = inp[threadIdx.x];
    else out[64 * blockIdx.x + threadIdx.x] = out[threadIdx.x]; // also uninitialised when block 0 comes later
}

EPI_KERNEL(bug_bytes, 64, 1, (const unsigned char* inp, unsigned char* out)) {
    EPI_SHARED(unsigned char, tile, 64);
    tile[threadIdx.x] = inp[threadIdx.x];
    __syncthreads();
    out[threadIdx.x / 2] = tile[threadIdx.x]; // BUG bug_bytes
}

EPI_KERNEL(bug_waits_for_ever, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(int, ready, 1);
    if (threadIdx.x == 0) ready[0] = 0;
    __syncthreads();
    while (atomicAdd(ready, 0) == 0) epi_spin(); // BUG bug_waits_for_ever
    out[threadIdx.x] = inp[threadIdx.x];
}

EPI_KERNEL(bug_deadlock, 64, 1, (const float* inp, float* out)) {
    if (threadIdx.x % 2) __syncwarp(); // BUG bug_deadlock
    else __syncthreads();
    out[threadIdx.x] = inp[threadIdx.x];
}

// ---- correct: none of these may ever be reported ------------------------------------------------------------------------------
/// Reverses within the block through double-buffered asynchronous copies, in rounds.
EPI_KERNEL(fine_pipeline, 64, 1, (const float* inp, float* out)) {
    SharedArena arena;
    float* tiles = arena.take<float>(128);
    float sum = 0.0f;
    cp_async<4>(tiles + threadIdx.x, inp + threadIdx.x);
    cp_async_commit();
    for (int round = 0; round < 6; ++round) {
        if (round < 5) cp_async<4>(tiles + (round + 1) % 2 * 64 + threadIdx.x, inp + threadIdx.x, round % 2 ? 4 : 0);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        sum += tiles[round % 2 * 64 + 63 - threadIdx.x];
        __syncthreads();
    }
    out[blockIdx.x * 64 + threadIdx.x] = sum;
}

/// Warp-synchronous exchange, reductions, votes and partial masks.
EPI_KERNEL(fine_warps, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    EPI_SHARED(float, scratch, 32);
    float x = inp[threadIdx.x];
    for (int round = 0; round < 5; ++round) {
        tile[threadIdx.x] = x;
        __syncwarp();
        x += tile[threadIdx.x ^ 1];
        __syncwarp();
    }
    if (lane_id() < 8) x += __shfl_xor_sync(0xFFu, x, 4, 8);
    if (__any_sync(FULL_MASK, lane_id() == 3)) x += warp_sum(x);
    x += block_sum(x, scratch) + block_max(x, scratch);
    out[blockIdx.x * 64 + threadIdx.x] = x;
}

/// Neighbouring bytes and halves written by different threads; atomics from all blocks; a spin on a flag.
EPI_KERNEL(fine_small, 64, 1, (const unsigned char* inp, unsigned char* out, unsigned* sum)) {
    EPI_SHARED(unsigned char, bytes, 64);
    EPI_SHARED(uint16_t, halves, 64);
    EPI_SHARED(int, flag, 1);
    if (threadIdx.x == 0) flag[0] = 0;
    __syncthreads();
    bytes[threadIdx.x] = inp[threadIdx.x];
    halves[threadIdx.x] = uint16_t(inp[threadIdx.x] * 3);
    if (threadIdx.x == 63) atomicExch(flag, 1);
    while (atomicAdd(flag, 0) == 0) epi_spin();
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = (unsigned char)(bytes[63 - threadIdx.x] + halves[threadIdx.x ^ 1] / 3);
    atomicAdd(sum, unsigned(bytes[threadIdx.x]));
}

/// Some threads return early, none of them before a barrier that others reach.
EPI_KERNEL(fine_early_return, 64, 1, (const float* inp, float* out)) {
    EPI_SHARED(float, tile, 64);
    tile[threadIdx.x] = inp[threadIdx.x];
    __syncthreads();
    if (threadIdx.x >= 48) return;
    const float x = __shfl_down_sync(__ballot_sync(threadIdx.x < 32 ? FULL_MASK : 0xFFFFu, 1), tile[63 - threadIdx.x], 1, 16);
    out[blockIdx.x * 48 + threadIdx.x] = x;
}
