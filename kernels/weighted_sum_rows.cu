// weighted_sum_rows: out[i, h * cols + c] = sum_j weights[i * heads + h, j] * rows[j, h / group * cols + c]
//
// shape   weights: [m * heads, n]   rows: [n, n_kv_heads * cols]   out: [m, heads * cols]   heads = n_kv_heads * group
//         partials: 512 per split of every tile (weighted.cuh)   counters: one per tile, 0
// launch  grid = ceil(m * group / 8) * n_kv_heads * ceil(cols / 64) * splits, or less if splits = 1: blocks stride; block = 256
// needs   out apart from weights and rows
// how     a block takes 8 outputs by 64 columns by a split of the rows; eight lanes own eight columns each, 32 groups of
//         them divide the rows, four on their way at a time where outputs are few; all meet in a fixed order, splits in the
//         block that comes last. Sums in f32
// cost    moves n * n_kv_heads * cols elements of rows for up to eight outputs that share them, and weights and out

#include "common.cuh"
#include "merge.cuh"
#include "weighted.cuh"

// Leaves a warp's sums for the first N outputs of a piece of work. A thread takes eight columns, U rows at a time; WIDE promises
// that they are aligned, and a multiple of eight.
template <u32 N, u32 U, bool WIDE>
__device__ inline void add_up(f32 (*found)[COLUMNS], const Work& work, const Shape& shape, const scalar* weights,
                              u64 weights_stride, const weight* rows, u64 rows_stride) {
    u32 column = work.column + threadIdx.x % 8 * 8, left = column < shape.cols ? shape.cols - column : 0;
    f32 sums[N][8] = {};
    const scalar* of[N];
#pragma unroll
    for (u32 i = 0; i < N; i++)
        of[i] = weights + work.weights_row(shape, work.output + i < shape.m * shape.group ? i : 0) * weights_stride;
    rows += (u64)work.kv_head * shape.cols + column;
#pragma unroll 1
    for (u64 first = work.first + threadIdx.x / 8; first < work.last; first += 32 * U) {
        Eight<weight> held[U];
        f32 factors[U][N];
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            u64 j = first + 32 * u;
            held[u] = hold8(rows + j * rows_stride, j < work.last ? WIDE ? left & ~7u : left : 0, WIDE);
#pragma unroll
            for (u32 i = 0; i < N; i++) factors[u][i] = j < work.last ? to_f32(of[i][j]) : 0.0f;
        }
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            f32 row[8];
            unpack(held[u], row);
#pragma unroll
            for (u32 i = 0; i < N; i++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i][e] += factors[u][i] * row[e];
        }
    }
#pragma unroll
    for (u32 i = 0; i < N; i++)
#pragma unroll
        for (u32 e = 0; e < 8; e++) {
            f32 sum = sums[i][e] + __shfl_xor_sync(0xffffffffu, sums[i][e], 8);
            sum += __shfl_xor_sync(0xffffffffu, sum, 16);
            if (threadIdx.x % 32 < 8) found[i][threadIdx.x % 8 * 8 + e] = sum;
        }
}

extern "C" __global__ void __launch_bounds__(256)
weighted_sum_rows(scalar* out, u64 out_stride, const scalar* weights, u64 weights_stride, const weight* rows,
                  u64 rows_stride, u64 m, u64 n, u32 n_kv_heads, u32 group, u32 cols, u32 splits, f32* partials,
                  u32* counters) {
    __shared__ f32 found[8][OUTPUTS][COLUMNS];
    Shape shape = {m, n, n_kv_heads, group, cols, splits};
    bool wide = cols % 8 == 0 && aligned(rows, rows_stride, n);
    for (u64 index = blockIdx.x; index < shape.tiles() * splits; index += gridDim.x) {
        Work work(index, shape);
        f32(*own)[COLUMNS] = found[threadIdx.x / 32];
        if (wide && m * group - work.output <= 4) add_up<4, 4, true>(own, work, shape, weights, weights_stride, rows, rows_stride);
        else if (wide) add_up<8, 1, true>(own, work, shape, weights, weights_stride, rows, rows_stride);
        else add_up<8, 1, false>(own, work, shape, weights, weights_stride, rows, rows_stride);
        meet(found, work, shape, out, out_stride, partials, counters);
    }
}
