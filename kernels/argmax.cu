// argmax: id[r] = argmax_c x[r, c], the lowest index of equal values; then position[r] += 1
//
// shape   x: [rows, cols], rows by stride   id, position: [rows]   partials: one per split of every row
//         counters: one per row, 0
// launch  grid = rows * splits, or less if splits = 1: blocks stride over rows; block = 256
// needs   cols < 2^32; position may be null
// how     a block takes the largest of (ordered value, complement of index), an integer of 64 bits, in a split of a row; the
//         block that comes last, the largest of all splits. A row with a NaN, or without a column, has the id 2^32 - 1.
// cost    moves rows * cols elements

#include "common.cuh"
#include "order.cuh"
#include "merge.cuh"

__device__ inline u64 block_max(u64 v) {
    return block_fold(v, [](u64 a, u64 b) { return a > b ? a : b; });
}

// The largest key of a row's columns begin .. end; all bits set for a NaN, none without a column.
__device__ inline u64 largest(const scalar* row, u64 begin, u64 end, bool wide) {
    u64 best = 0;
    for (u64 c = begin + threadIdx.x * 8; c < end; c += blockDim.x * 8) {
        f32 v[8];
        load8(row + c, end - c, wide, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u64 key = v[i] != v[i] ? ~0ull : (u64)order(v[i]) << 32 | (u32)~(c + i);
            best = c + i < end && key > best ? key : best;
        }
    }
    return block_max(best);
}

extern "C" __global__ void __launch_bounds__(256)
argmax(u32* id, u32* position, const scalar* x, u64 x_stride, u64 rows, u64 cols, u64* partials, u32* counters, u32 splits) {
    bool wide = aligned(x, x_stride, rows);
    // Splits begin where sixteen bytes do.
    u64 each = ((cols + splits - 1) / splits + 7) / 8 * 8;
    for (u64 item = blockIdx.x; item < rows * splits; item += gridDim.x) {
        u64 row = item / splits, begin = min(item % splits * each, cols);
        u64 best = largest(x + row * x_stride, begin, min(begin + each, cols), wide);
        if (splits > 1) {
            if (threadIdx.x == 0) partials[item] = best;
            if (!last_of(counters + row, splits)) continue;
            best = 0;
            for (u32 i = threadIdx.x; i < splits; i += blockDim.x) best = max(best, __ldcg(partials + row * splits + i));
            best = block_max(best);
        }
        if (threadIdx.x == 0) {
            id[row] = best == 0 || best == ~0ull ? 0xffffffffu : ~(u32)best;
            if (position) position[row] += 1;
        }
    }
}
