// weighted_sum_rows: out[i, c] = sum_j weights[i, j] * rows[j, c]
//
// shape   weights: [m, n]   rows: [n, cols]   out: [m, cols]   rows by stride
// launch  grid = m / 4 times cols / 256, or less: blocks stride; block = 256
// needs   out apart from weights and rows
// how     threads own columns and divide the rows (columns.cuh); sums in f32
// cost    moves n * cols elements of rows for every four rows of weights, and weights and out

#include "common.cuh"
#include "columns.cuh"

extern "C" __global__ void __launch_bounds__(256)
weighted_sum_rows(scalar* out, u64 out_stride, const scalar* weights, u64 weights_stride, const weight* rows,
                  u64 rows_stride, u64 m, u64 n, u64 cols) {
    columns(weights, weights_stride, m, rows, rows_stride, cols, n,
            [=](u64 i, u64 c, f32 sum) { store(out + i * out_stride + c, sum); });
}
