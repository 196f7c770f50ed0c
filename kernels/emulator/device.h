// CUDA's vocabulary for the C++ compiler: what common.cuh includes when nvcc is not the compiler.
//
// A kernel becomes a plain function that registers itself; a CUDA thread is a fiber whose `Thread` lies on top of its own
// 64 KB-aligned stack, so threadIdx and friends need nothing but the stack pointer. Everything that synchronises goes to the
// runtime together with its call site.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define EPI_DEVICE static inline __attribute__((always_inline, unused))
#define EPI_DEVICE_MEMBER inline __attribute__((always_inline))
#define EPI_DEVICE_SPECIALIZATION inline __attribute__((always_inline))
#define EPI_CONSTEXPR static inline constexpr __attribute__((always_inline))
#define EPI_SITE_ONLY emu::Site site = emu::Site::here()
#define EPI_SITE , EPI_SITE_ONLY
#define EPI_AT_ONLY site
#define EPI_AT , EPI_AT_ONLY
#define EPI_SYNCTHREADS() emu::sync_block(emu::Vote::None, 0, site)

#define EPI_KERNEL(name, max_threads, min_blocks, params)                                                              \
    static void name params;                                                                                           \
    static const emu::Registrar epi_registrar_##name(#name, max_threads, emu::Entry<&name>{});                         \
    static void name params
#define EPI_SHARED(T, name, n)                                                                                         \
    static char epi_key_##name;                                                                                        \
    T(&name)[n] = *static_cast<T(*)[n]>(emu::shared(&epi_key_##name, #name, sizeof(T) * (n), emu::Site::here()))

struct alignas(8) uint2 { uint32_t x, y; };
struct uint3 { uint32_t x, y, z; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct dim3 { uint32_t x = 1, y = 1, z = 1; };

namespace emu {

/// A line of source, taken where a defaulted argument is filled in.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
    bool operator==(const Site& other) const { return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0); }
};

constexpr size_t STACK = 64 << 10;   // of a fiber; aligned to its size
constexpr size_t THREAD_ROOM = 512;  // on top of it, for the runtime's record of the thread

/// What a kernel can see of its own thread; the head of the runtime's record.
struct Thread {
    uint3 thread_index, block_index;
    dim3 block_dim, grid_dim;
};

EPI_DEVICE const Thread& self() {
    uintptr_t stack;
    asm("mov %%rsp, %0" : "=r"(stack));
    return *reinterpret_cast<const Thread*>((stack | (STACK - 1)) + 1 - THREAD_ROOM);
}

// ---- the runtime ------------------------------------------------------------------------------------------------------
enum class Vote : uint8_t { None, Or, And, Count };
enum class Shuffle : uint8_t { Index, Up, Down, Xor };
enum class Atomic : uint8_t { Add, Max, Min, Or, And, Exchange };

int sync_block(Vote vote, int predicate, Site site);
void sync_warp(unsigned mask, Site site);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int operand, int width, Site site);
unsigned ballot(unsigned mask, bool predicate, unsigned* alive, Site site);
void ldmatrix(uint32_t* r, int count, bool transposed, const void* row, Site site);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, Site site);
void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Site site);
void cp_async(void* shared, const void* global, unsigned bytes, int valid, Site site);
void cp_async_commit(Site site);
void cp_async_wait(unsigned open, Site site);
void* shared(const void* key, const char* name, size_t bytes, Site site);
void* dynamic_shared(size_t offset, size_t bytes, Site site);
void spin(Site site);
/// The old value; `T` is int, unsigned, unsigned long long, float or double.
template <class T> T atomic(Atomic kind, T* at, T value, Site site);
template <class T> T compare_exchange(T* at, T expected, T desired, Site site);

// ---- registration -------------------------------------------------------------------------------------------------------
template <auto F> struct Entry;
template <class... A, void (*F)(A...)> struct Entry<F> {
    static constexpr uint32_t sizes[] = {sizeof(A)...};
    static void call(void** args) { unpack(args, std::index_sequence_for<A...>{}); }
    template <size_t... I> static void unpack(void** args, std::index_sequence<I...>) {
        F(*static_cast<std::remove_cv_t<A>*>(args[I])...);
    }
};

/// A kernel as the launcher finds it by name.
struct Kernel {
    const char* name;
    unsigned max_threads;
    void (*call)(void** args);
    const uint32_t* sizes; // of the arguments
    unsigned count;
    bool check;
};
void enroll(const Kernel& kernel);

/// The line of one instrumented access, by the address it returns to; build.rs writes the tables, zero-terminated.
struct Line {
    uintptr_t pc;
    const char* file;
    uint64_t line;
};
void enroll_lines(const Line* lines);

struct Registrar {
    template <auto F> Registrar(const char* name, unsigned max_threads, Entry<F>) {
        using E = Entry<F>;
        enroll({name, max_threads, E::call, E::sizes, sizeof(E::sizes) / sizeof(E::sizes[0]), EPI_CHECK});
    }
};
struct LineTable {
    explicit LineTable(const Line* lines) { enroll_lines(lines); }
};
} // namespace emu

// ---- threads and synchronisation ------------------------------------------------------------------------------------------
#define threadIdx (emu::self().thread_index)
#define blockIdx (emu::self().block_index)
#define blockDim (emu::self().block_dim)
#define gridDim (emu::self().grid_dim)

EPI_DEVICE void __syncthreads(EPI_SITE_ONLY) { emu::sync_block(emu::Vote::None, 0, site); }
EPI_DEVICE int __syncthreads_or(int predicate EPI_SITE) { return emu::sync_block(emu::Vote::Or, predicate, site); }
EPI_DEVICE int __syncthreads_and(int predicate EPI_SITE) { return emu::sync_block(emu::Vote::And, predicate, site); }
EPI_DEVICE int __syncthreads_count(int predicate EPI_SITE) { return emu::sync_block(emu::Vote::Count, predicate, site); }
EPI_DEVICE void __syncwarp(unsigned mask = ~0u EPI_SITE) { emu::sync_warp(mask, site); }
EPI_DEVICE void __threadfence() {}
EPI_DEVICE void __threadfence_block() {}

namespace emu {
template <class T> EPI_DEVICE T shuffle_value(Shuffle kind, unsigned mask, T value, int operand, int width, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = shuffle(kind, mask, bits, operand, width, site);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
} // namespace emu
template <class T> EPI_DEVICE T __shfl_sync(unsigned mask, T value, int lane, int width = 32 EPI_SITE) {
    return emu::shuffle_value(emu::Shuffle::Index, mask, value, lane, width, site);
}
template <class T> EPI_DEVICE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32 EPI_SITE) {
    return emu::shuffle_value(emu::Shuffle::Up, mask, value, int(delta), width, site);
}
template <class T> EPI_DEVICE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32 EPI_SITE) {
    return emu::shuffle_value(emu::Shuffle::Down, mask, value, int(delta), width, site);
}
template <class T> EPI_DEVICE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32 EPI_SITE) {
    return emu::shuffle_value(emu::Shuffle::Xor, mask, value, lanes, width, site);
}
EPI_DEVICE unsigned __ballot_sync(unsigned mask, int predicate EPI_SITE) { return emu::ballot(mask, predicate != 0, nullptr, site); }
EPI_DEVICE int __any_sync(unsigned mask, int predicate EPI_SITE) { return emu::ballot(mask, predicate != 0, nullptr, site) != 0; }
EPI_DEVICE int __all_sync(unsigned mask, int predicate EPI_SITE) {
    unsigned alive;
    return emu::ballot(mask, predicate != 0, &alive, site) == alive;
}

template <class T> EPI_DEVICE T atomicAdd(T* at, std::common_type_t<T> value EPI_SITE) { return emu::atomic<T>(emu::Atomic::Add, at, value, site); }
template <class T> EPI_DEVICE T atomicMax(T* at, std::common_type_t<T> value EPI_SITE) { return emu::atomic<T>(emu::Atomic::Max, at, value, site); }
template <class T> EPI_DEVICE T atomicMin(T* at, std::common_type_t<T> value EPI_SITE) { return emu::atomic<T>(emu::Atomic::Min, at, value, site); }
template <class T> EPI_DEVICE T atomicOr(T* at, std::common_type_t<T> value EPI_SITE) { return emu::atomic<T>(emu::Atomic::Or, at, value, site); }
template <class T> EPI_DEVICE T atomicAnd(T* at, std::common_type_t<T> value EPI_SITE) { return emu::atomic<T>(emu::Atomic::And, at, value, site); }
template <class T> EPI_DEVICE T atomicExch(T* at, std::common_type_t<T> value EPI_SITE) { return emu::atomic<T>(emu::Atomic::Exchange, at, value, site); }
template <class T> EPI_DEVICE T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> desired EPI_SITE) {
    return emu::compare_exchange<T>(at, expected, desired, site);
}

// ---- vectors, bits and arithmetic ------------------------------------------------------------------------------------------
EPI_DEVICE uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
EPI_DEVICE uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
EPI_DEVICE int2 make_int2(int x, int y) { return {x, y}; }
EPI_DEVICE int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
EPI_DEVICE float2 make_float2(float x, float y) { return {x, y}; }
EPI_DEVICE float3 make_float3(float x, float y, float z) { return {x, y, z}; }
EPI_DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
EPI_DEVICE double2 make_double2(double x, double y) { return {x, y}; }

EPI_DEVICE uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }
EPI_DEVICE int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
EPI_DEVICE float __uint_as_float(uint32_t x) { return __builtin_bit_cast(float, x); }
EPI_DEVICE float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
EPI_DEVICE int __popc(uint32_t x) { return __builtin_popcount(x); }
EPI_DEVICE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EPI_DEVICE int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
EPI_DEVICE int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
EPI_DEVICE int __ffs(int x) { return __builtin_ffs(x); }
EPI_DEVICE int __ffsll(long long x) { return __builtin_ffsll(x); }
EPI_DEVICE uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
EPI_DEVICE uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)a * b >> 64); }
EPI_DEVICE uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) { return uint32_t(((uint64_t(high) << 32) | low) >> (by & 31)); }
EPI_DEVICE uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by) { return uint32_t((((uint64_t(high) << 32) | low) << (by & 31)) >> 32); }
EPI_DEVICE uint32_t __brev(uint32_t x) {
    uint32_t out = 0;
    for (int i = 0; i < 32; ++i) out |= (x >> i & 1u) << (31 - i);
    return out;
}
EPI_DEVICE uint64_t __brevll(uint64_t x) { return uint64_t(__brev(uint32_t(x))) << 32 | __brev(uint32_t(x >> 32)); }
template <class T> EPI_DEVICE T __ldg(const T* at) { return *at; }
template <class T> EPI_DEVICE T min(T a, T b) { return b < a ? b : a; }
template <class T> EPI_DEVICE T max(T a, T b) { return a < b ? b : a; }

using std::isfinite;
using std::isinf;
using std::isnan;
EPI_DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
EPI_DEVICE double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf(x) expf(x) // the C library keeps functions of these names to itself
#define __logf(x) logf(x)
EPI_DEVICE float __fdividef(float a, float b) { return a / b; }
EPI_DEVICE float __frcp_rn(float x) { return 1.0f / x; }
EPI_DEVICE float __fsqrt_rn(float x) { return sqrtf(x); }
EPI_DEVICE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
EPI_DEVICE float __fadd_rn(float a, float b) { return a + b; }
EPI_DEVICE float __fmul_rn(float a, float b) { return a * b; }
EPI_DEVICE double __dadd_rn(double a, double b) { return a + b; }
EPI_DEVICE double __dmul_rn(double a, double b) { return a * b; }
EPI_DEVICE int __float2int_rn(float x) { return int(nearbyintf(x)); }
EPI_DEVICE int __float2int_rz(float x) { return int(x); }
EPI_DEVICE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
