// Tensor cores: mma.sync and ldmatrix. Whole warps only. With g = lane / 4 and t = lane % 4 (PTX ISA, "Warp-level matrix
// fragments"), element pairs low half first:
//
//   m16n8k16 bf16   A [16,16]  a0 (g, 2t..) a1 (g+8, 2t..) a2 (g, 2t+8..) a3 (g+8, 2t+8..)
//                   B [16,8]   b0 (2t.., g) b1 (2t+8.., g)
//   m16n8k8  tf32   A [16,8]   a0 (g, t) a1 (g+8, t) a2 (g, t+4) a3 (g+8, t+4)
//                   B [8,8]    b0 (t, g) b1 (t+4, g)
//   both            D [16,8]   d0 (g, 2t) d1 (g, 2t+1) d2 (g+8, 2t) d3 (g+8, 2t+1)         f32
//
//   ldmatrix<N>     N 8x8 matrices of 16-bit elements from shared memory. Lane 8i+r gives the address of row r of matrix i
//                   (16 bytes, 16-byte aligned); register i of a lane is elements (g, 2t) and (g, 2t+1) of matrix i,
//                   transposed: (2t, g) and (2t+1, g). All 32 lanes must pass a readable address.
#pragma once
#include "common.cuh"

/// `d += A B` for bf16 fragments.
EPI_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] EPI_SITE) {
#if defined(__CUDACC__)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emu::mma_bf16(d, a, b EPI_AT);
#endif
}

/// A float rounded to tf32 (nearest, ties away from zero), as mma_tf32 wants its operands.
EPI_DEVICE uint32_t to_tf32(float x) {
#if defined(__CUDACC__)
    uint32_t out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
    return out;
#else
    const uint32_t bits = __float_as_uint(x);
    return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & 0xFFFFE000u;
#endif
}

/// `d += A B` for tf32 fragments (of which the tensor core ignores the lower 13 bits).
EPI_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] EPI_SITE) {
#if defined(__CUDACC__)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emu::mma_tf32(d, a, b EPI_AT);
#endif
}

/// Loads N (1, 2 or 4) matrices; lanes beyond 8N pass any readable row, e.g. that of lane % (8N).
template <int N, bool TRANSPOSED = false> EPI_DEVICE void ldmatrix(uint32_t (&r)[N], const void* row EPI_SITE) {
    static_assert(N == 1 || N == 2 || N == 4, "ldmatrix loads 1, 2 or 4 matrices");
#if defined(__CUDACC__)
    const unsigned at = unsigned(__cvta_generic_to_shared(row));
    if constexpr (N == 1 && !TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
    if constexpr (N == 1 && TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
    if constexpr (N == 2 && !TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
    if constexpr (N == 2 && TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
    if constexpr (N == 4 && !TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    if constexpr (N == 4 && TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#else
    emu::ldmatrix(r, N, TRANSPOSED, row EPI_AT);
#endif
}
