// cp.async: copies from global to shared memory that run beside the computation.
//
//   cp_async<16>(shared, global);            4, 8 or 16 bytes, both sides aligned to the size
//   cp_async<16>(shared, global, valid);     only the first `valid` bytes are read, the rest becomes zero
//   cp_async_commit();                       closes a group of this thread's copies
//   cp_async_wait<N>();                      until at most N groups of this thread are open
//
// A thread sees its own copies after its wait; other threads need a __syncthreads() after that.
// With `valid` = 0 nothing is read, but pass an address inside the tensor all the same.
#pragma once
#include "common.cuh"

template <int BYTES> EPI_DEVICE void cp_async(void* shared, const void* global, int valid = BYTES EPI_SITE) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
#if defined(__CUDACC__)
    const unsigned at = unsigned(__cvta_generic_to_shared(shared));
    if constexpr (BYTES == 16) // past L1: a tile is read once
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(at), "l"(global), "r"(valid), "n"(BYTES) : "memory");
#else
    emu::cp_async(shared, global, BYTES, valid EPI_AT);
#endif
}

EPI_DEVICE void cp_async_commit(EPI_SITE_ONLY) {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emu::cp_async_commit(EPI_AT_ONLY);
#endif
}

template <int OPEN> EPI_DEVICE void cp_async_wait(EPI_SITE_ONLY) {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
#else
    emu::cp_async_wait(OPEN EPI_AT);
#endif
}
