// weighted_sum_rows: out[i, h * cols + c] = sum_j weights[i * heads + h, j] * rows[j, h / group * cols + c]
//
// shape   weights: [m * heads, n]   rows: [n, n_kv_heads * cols]   out: [m, heads * cols]   heads = n_kv_heads * group
//         partials: 512 per split of every tile (weighted.cuh)   counters: one per tile, 0
// launch  grid = ceil(m * group / 8) * n_kv_heads * ceil(cols / 64) * splits, or less if splits = 1: blocks stride; block = 256
// needs   out apart from weights and rows
// how     a block takes 8 outputs by 64 columns by a split of the rows; eight lanes own eight columns each, 32 groups of
//         them divide the rows; all meet in a fixed order, splits in the block that comes last. Sums in f32
// cost    moves n * n_kv_heads * cols elements of rows for up to eight outputs that share them, and weights and out

#include "common.cuh"
#include "merge.cuh"
#include "weighted.cuh"

extern "C" __global__ void __launch_bounds__(256)
weighted_sum_rows(scalar* out, u64 out_stride, const scalar* weights, u64 weights_stride, const weight* rows,
                  u64 rows_stride, u64 m, u64 n, u32 n_kv_heads, u32 group, u32 cols, u32 splits, f32* partials,
                  u32* counters) {
    __shared__ f32 found[8][OUTPUTS][COLUMNS];
    Shape shape = {m, n, n_kv_heads, group, cols, splits};
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 8 * 8;
    bool wide = cols % 8 == 0 && aligned(rows, rows_stride, n);
    for (u64 index = blockIdx.x; index < shape.tiles() * splits; index += gridDim.x) {
        Work work(index, shape);
        u32 column = work.column + lane, left = column < cols ? cols - column : 0;
        f32 sums[OUTPUTS][8] = {}, row[8];
        const scalar* of[OUTPUTS];
#pragma unroll
        for (u32 i = 0; i < OUTPUTS; i++)
            of[i] = weights + work.weights_row(shape, work.output + i < m * group ? i : 0) * weights_stride;
        for (u64 j = work.first + threadIdx.x / 8; j < work.last; j += 32) {
            load8(rows + j * rows_stride + (u64)work.kv_head * cols + column, left, wide, row);
#pragma unroll
            for (u32 i = 0; i < OUTPUTS; i++) {
                f32 factor = to_f32(of[i][j]);
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i][e] += factor * row[e];
            }
        }
#pragma unroll
        for (u32 i = 0; i < OUTPUTS; i++)
#pragma unroll
            for (u32 e = 0; e < 8; e++) {
                f32 sum = sums[i][e] + __shfl_xor_sync(0xffffffffu, sums[i][e], 8);
                sum += __shfl_xor_sync(0xffffffffu, sum, 16);
                if (threadIdx.x % 32 < 8) found[warp][i][lane + e] = sum;
            }
        meet(found, work, shape, out, out_stride, partials, counters);
    }
}
