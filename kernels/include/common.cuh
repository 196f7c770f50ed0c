// What every kernel includes: one vocabulary that nvcc turns into CUDA and the C++ compiler into the emulator.
//
//   EPI_KERNEL(name, max_threads, min_blocks, (params)) { .. }   an entry point, found by `name` at run time
//   EPI_SHARED(T, name, n);                                      a static array in shared memory, 16-byte aligned
//   SharedArena arena; T* x = arena.take<T>(n);                  pieces of the launch's dynamic shared memory
//   EPI_DEVICE                                                   a function inlined into kernels (members: EPI_DEVICE_MEMBER;
//                                                                usable in constants too: EPI_CONSTEXPR)
//   EPI_SITE                                                     last "parameter" of a helper that synchronises or touches
//                                                                memory: reports then name its caller's line; pass on EPI_AT
//
// CUDA's own names (threadIdx, __syncthreads, __shfl_xor_sync, atomicAdd, float4, __popcll, ..) work in both worlds.
// CUDA headers and PTX stay in this folder; kernels use neither.
#pragma once

#if defined(__CUDACC__)
#include <cstdint>
#define EPI_DEVICE static __device__ __forceinline__
#define EPI_CONSTEXPR static constexpr __host__ __device__ __forceinline__
#define EPI_DEVICE_MEMBER __device__ __forceinline__
#define EPI_DEVICE_SPECIALIZATION __device__ __forceinline__
#define EPI_KERNEL(name, max_threads, min_blocks, params)                                                              \
    extern "C" __global__ void __launch_bounds__(max_threads, min_blocks) name params
#define EPI_SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define EPI_SITE
#define EPI_SITE_ONLY
#define EPI_AT
#define EPI_AT_ONLY
#define EPI_SYNCTHREADS() __syncthreads()
#define EPI_UNROLL _Pragma("unroll")
#define EPI_PRAGMA(x) _Pragma(#x)
#define EPI_UNROLL_BY(n) EPI_PRAGMA(unroll n)
#else
#include "../emulator/device.h"
#define EPI_UNROLL
#define EPI_UNROLL_BY(n)
#endif

constexpr int WARP = 32;
constexpr unsigned FULL_MASK = 0xFFFFFFFFu;

template <class T> EPI_CONSTEXPR T ceil_div(T a, T b) { return (a + b - 1) / b; }
template <class T> EPI_CONSTEXPR T round_up(T a, T b) { return ceil_div(a, b) * b; }

/// max(x, 0), except that NaN stays NaN: a broken value must reach the loss.
EPI_DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

EPI_DEVICE int lane_id() { return int(threadIdx.x) % WARP; } // blocks are one-dimensional
EPI_DEVICE int warp_id() { return int(threadIdx.x) / WARP; }
EPI_DEVICE int warp_count() { return ceil_div(int(blockDim.x), WARP); }

/// Gives way inside a loop that waits for another thread of the same block.
EPI_DEVICE void epi_spin(EPI_SITE_ONLY) {
#if defined(__CUDACC__)
    __nanosleep(20);
#else
    emu::spin(EPI_AT_ONLY);
#endif
}

/// Hands out the launch's dynamic shared memory piece by piece, each 16-byte aligned. Every thread of the block must take
/// the same pieces in the same order; `bytes(n * sizeof(T))` summed over the pieces is what the launch must provide.
struct SharedArena {
    unsigned offset = 0;
    EPI_CONSTEXPR unsigned bytes(unsigned n) { return (n + 15u) & ~15u; }
    template <class T> EPI_DEVICE_MEMBER T* take(int n EPI_SITE) {
        const unsigned at = offset, size = unsigned(n) * unsigned(sizeof(T));
        offset += bytes(size);
#if defined(__CUDACC__)
        extern __shared__ __align__(16) unsigned char epi_dynamic_shared[];
        return reinterpret_cast<T*>(epi_dynamic_shared + at);
#else
        return static_cast<T*>(emu::dynamic_shared(at, size EPI_AT));
#endif
    }
};

/// 2^x to within 2 units in the last place; results below the smallest normal number become zero.
EPI_DEVICE float exp2_approx(float x) {
#if defined(__CUDACC__)
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
#else
    const float out = exp2f(x);
    return out < 1.17549435e-38f ? 0.0f : out;
#endif
}

// ---- bfloat16 -------------------------------------------------------------------------------------------------------
/// A bfloat16: the upper half of a float. A plain bit pattern, so that arrays of it may live in shared memory.
struct alignas(2) bf16 {
    uint16_t bits;
};

/// Two bfloat16 in one register, `lo` at the lower address.
struct alignas(4) bf16x2 {
    uint32_t bits;
};

EPI_DEVICE float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
EPI_DEVICE float to_float(float x) { return x; }
EPI_DEVICE float low_float(bf16x2 x) { return __uint_as_float(x.bits << 16); }
EPI_DEVICE float high_float(bf16x2 x) { return __uint_as_float(x.bits & 0xFFFF0000u); }

/// Rounds to nearest, ties to even; any NaN becomes 0x7FFF, as on the device.
EPI_DEVICE bf16 to_bf16(float x) {
    bf16 out;
#if defined(__CUDACC__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
    const uint32_t bits = __float_as_uint(x);
    out.bits = x != x ? uint16_t(0x7FFF) : uint16_t((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
#endif
    return out;
}
EPI_DEVICE bf16x2 to_bf16x2(float low, float high) {
    bf16x2 out;
#if defined(__CUDACC__)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.bits) : "f"(high), "f"(low));
#else
    out.bits = uint32_t(to_bf16(low).bits) | uint32_t(to_bf16(high).bits) << 16;
#endif
    return out;
}

/// `from_float<T>(x)`: a float as storage type T (float or bf16).
template <class T> EPI_DEVICE T from_float(float x);
template <> EPI_DEVICE_SPECIALIZATION float from_float<float>(float x) { return x; }
template <> EPI_DEVICE_SPECIALIZATION bf16 from_float<bf16>(float x) { return to_bf16(x); }

// ---- warp and block reductions: fixed order, so the same bits every time ---------------------------------------------
EPI_DEVICE float warp_sum(float x EPI_SITE) {
    EPI_UNROLL for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset, WARP EPI_AT);
    return x;
}
EPI_DEVICE double warp_sum(double x EPI_SITE) {
    EPI_UNROLL for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset, WARP EPI_AT);
    return x;
}
EPI_DEVICE int warp_sum(int x EPI_SITE) {
    EPI_UNROLL for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset, WARP EPI_AT);
    return x;
}
EPI_DEVICE float warp_max(float x EPI_SITE) {
    EPI_UNROLL for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset, WARP EPI_AT));
    return x;
}

/// Sum over the block, in every thread. Whole warps only; `scratch` holds 32 values and is free again afterwards.
template <class T> EPI_DEVICE T block_sum(T x, T* scratch EPI_SITE) {
    x = warp_sum(x EPI_AT);
    if (lane_id() == 0) scratch[warp_id()] = x;
    EPI_SYNCTHREADS();
    T total = T(0);
    for (int w = 0; w < warp_count(); ++w) total += scratch[w];
    EPI_SYNCTHREADS();
    return total;
}
/// Maximum over the block, in every thread; as block_sum.
EPI_DEVICE float block_max(float x, float* scratch EPI_SITE) {
    x = warp_max(x EPI_AT);
    if (lane_id() == 0) scratch[warp_id()] = x;
    EPI_SYNCTHREADS();
    float top = scratch[0];
    for (int w = 1; w < warp_count(); ++w) top = fmaxf(top, scratch[w]);
    EPI_SYNCTHREADS();
    return top;
}
