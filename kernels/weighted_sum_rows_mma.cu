// weighted_sum_rows_mma: out[i, h * cols + c] = sum_j weights[i * heads + h, j] * rows[j, h / group * cols + c]
//
// shape   weights: [m * heads, n]   rows: [n, n_kv_heads * cols]   out: [m, heads * cols]   heads = n_kv_heads * group
//         partials: 512 per split of every tile (weighted.cuh)   counters: one per tile, 0
// launch  grid = ceil(m * group / 8) * n_kv_heads * ceil(cols / 64) * splits, or less if splits = 1: blocks stride; block = 256
// needs   cols a multiple of 8; rows aligned to 16 bytes in every row; out apart from weights and rows; to overlap, rows
//         must not be written by a kernel in flight
// how     a block takes 8 outputs by 64 columns by a split of the rows; each of its warps takes 32 rows at a time, past L1,
//         as the first operand of its products: 16 columns of them fill it, where outputs would leave half of it empty.
//         All meet in a fixed order. Sums in f32
// cost    moves n * n_kv_heads * cols elements of rows for up to eight outputs that share them, and weights and out

#include "common.cuh"
#include "overlap.cuh"
#include "mma.cuh"
#include "merge.cuh"
#include "weighted.cuh"

const u32 ROWS = 32;  // that a warp takes at a time

// Eight columns of the rows, of `left`, that lane 4 g + t multiplies: 2 t and 2 t + 1 of every eight.
__device__ inline void load_rows(const weight* from, u64 stride, u32 left, uint4 (&held)[4][2]) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 row = i / 2 * 8 + i % 2;
        held[i / 2][i % 2] = row < left ? once16(from + row * stride) : make_uint4(0, 0, 0, 0);
    }
}
// Their weights; `paired` promises that those of two neighbours are aligned to 4 bytes.
__device__ inline void load_factors(const scalar* from, u32 left, bool paired, u32 (&held)[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (paired && i * 8 + 1 < left) {
            held[i] = fresh((const u32*)(from + i * 8));
            continue;
        }
        u32 low = i * 8 < left ? fresh(from + i * 8).bits : 0;
        u32 high = i * 8 + 1 < left ? fresh(from + i * 8 + 1).bits : 0;
        held[i] = low | high << 16;
    }
}

// sums[e] += rows . weights: of lane 4 g + t for columns 8 g + 2 e (twice) and 8 g + 2 e + 1, outputs 2 t and 2 t + 1.
__device__ inline void multiply(f32 (&sums)[4][4], const uint4 (&rows)[4][2], const u32 (&factors)[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i += 2)
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            mma(sums[e], column(rows[i][0], rows[i][1], 2 * e), column(rows[i][0], rows[i][1], 2 * e + 1),
                column(rows[i + 1][0], rows[i + 1][1], 2 * e), column(rows[i + 1][0], rows[i + 1][1], 2 * e + 1),
                factors[i], factors[i + 1], weight());
}

extern "C" __global__ void __launch_bounds__(256)
weighted_sum_rows_mma(scalar* out, u64 out_stride, const scalar* weights, u64 weights_stride, const weight* rows,
                      u64 rows_stride, u64 m, u64 n, u32 n_kv_heads, u32 group, u32 cols, u32 splits, f32* partials,
                      u32* counters) {
    __shared__ f32 found[8][OUTPUTS][COLUMNS];
    Shape shape = {m, n, n_kv_heads, group, cols, splits};
    u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    bool waited = false, paired = ((u64)weights | weights_stride * 2) % 4 == 0;
    for (u64 index = blockIdx.x; index < shape.tiles() * splits; index += gridDim.x) {
        Work work(index, shape);
        bool real = work.output + g < m * group;
        u64 first = work.first + warp * ROWS + 2 * t;
        u32 left = work.last - min(first, work.last), column_left = work.column + g * 8 < cols ? left : 0;
        const weight* from = rows + first * rows_stride + (u64)work.kv_head * cols + work.column + g * 8;
        const scalar* factors = weights + work.weights_row(shape, real ? g : 0) * weights_stride + first;
        uint4 held[4][2];
        u32 a[4];
        load_rows(from, rows_stride, column_left, held);
        if (!waited) release_next(), await_previous(), waited = true;
        load_factors(factors, real ? left : 0, paired, a);
        f32 sums[4][4] = {};
        for (u32 step = 8 * ROWS;; from += step * rows_stride, factors += step) {
            multiply(sums, held, a);
            left -= min(left, step), column_left -= min(column_left, step);
            if (!__any_sync(0xffffffffu, left > 0)) break;
            load_rows(from + step * rows_stride, rows_stride, column_left, held);
            load_factors(factors + step, real ? left : 0, paired, a);
        }
#pragma unroll
        for (u32 e = 0; e < 4; e++)
#pragma unroll
            for (u32 i = 0; i < 2; i++)
                *(float2*)&found[warp][2 * t + i][8 * g + 2 * e] = make_float2(sums[e][i], sums[e][2 + i]);
        meet(found, work, shape, out, out_stride, partials, counters);
    }
}
