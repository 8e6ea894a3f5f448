// Products of fragments in registers by the tensor cores of any card that has them (mma.sync).

#include "tiles.cuh"
#include "mma.cuh"

// Four matrices of 8 x 8 from the rows that lanes 0..8, 8..16, .. point at; lane l gets elements l % 4 * 2 + 0, 1 of row l / 4.
__device__ inline void load_fragments(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}
// The same of their transposes.
__device__ inline void load_fragments_turned(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}
// sums += a * b, of 16 x 16 and 16 x 8.
__device__ inline void multiply(f32 (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    mma(sums, a[0], a[1], a[2], a[3], b0, b1, scalar());
}
