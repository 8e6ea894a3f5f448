// append_rows: dst[positions[r], c] = src[r, c]
//
// shape   src: [rows, cols]   dst: [capacity, cols]   positions: [rows]   rows by stride
// launch  grid = rows, or less: blocks stride over rows; block = 256
// needs   dst apart from src; `distinct` != 0 only if no two positions are equal
// how     one block per row. Rows outside dst are left out, and so is a row whose position occurs again later: of rows
//         with equal positions, the last is written.
// cost    moves 2 * rows * cols elements; without `distinct` also rows^2 / 2 positions from the cache

#include "common.cuh"

template <class E> __device__ inline void convert(E* to, const E* from) { *to = *from; }
template <class A, class B> __device__ inline void convert(A* to, const B* from) { store(to, to_f32(*from)); }

template <class A, class B> __device__ inline void convert8(A* to, const B* from) {
    f32 v[8];
    load8_wide(from, v);
    store8_wide(to, v);
}
template <class E> __device__ inline void convert8(E* to, const E* from) {
    for (u32 i = 0; i < sizeof(E) / 2; i++) ((uint4*)to)[i] = ((const uint4*)from)[i];
}

extern "C" __global__ void __launch_bounds__(256)
append_rows(weight* dst, u64 dst_stride, const scalar* src, u64 src_stride, const u32* positions, u64 rows, u64 cols,
            u64 capacity, u32 distinct) {
    bool wide = aligned(src, src_stride, rows) && aligned(dst, dst_stride, capacity);
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        u64 p = positions[row];
        bool again = false;
        for (u64 r = row + 1 + threadIdx.x; distinct == 0 && r < rows; r += blockDim.x) again |= positions[r] == p;
        if (__syncthreads_or(again) || p >= capacity) continue;
        const scalar* from = src + row * src_stride;
        weight* to = dst + p * dst_stride;
        for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
            if (wide && cols - c >= 8) convert8(to + c, from + c);
            else for (u64 i = c; i < c + 8 && i < cols; i++) convert(to + i, from + i);
        }
    }
}
