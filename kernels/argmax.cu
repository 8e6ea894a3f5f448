// argmax: id[r] = argmax_c x[r, c], the lowest index of equal values; then position[r] += 1
//
// shape   x: [rows, cols], rows by stride   id, position: [rows]
// launch  grid = rows, or less: blocks stride over rows; block = 1024
// needs   cols < 2^32; position may be null
// how     one block per row takes the largest of (ordered value, complement of index), an integer of 64 bits. A row with a
//         NaN, or without a column, has the id 2^32 - 1.
// cost    moves rows * cols elements

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(1024)
argmax(u32* id, u32* position, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows);
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const scalar* from = x + row * x_stride;
        u64 best = 0;
        bool unordered = false;
        for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
            f32 v[8];
            load8(from + c, cols - c, wide, v);
            for (u32 i = 0; i < 8 && c + i < cols; i++) {
                u64 candidate = (u64)order(v[i]) << 32 | (u32)~(c + i);
                best = candidate > best ? candidate : best;
                unordered |= v[i] != v[i];
            }
        }
        best = block_fold(best, [](u64 a, u64 b) { return a > b ? a : b; });
        bool none = __syncthreads_or(unordered) || cols == 0;
        if (threadIdx.x == 0) {
            id[row] = none ? 0xffffffffu : ~(u32)best;
            if (position) position[row] += 1;
        }
    }
}
