// apply_rope: with h = head_dim / 2, p = positions[r] and i < h of each head: out[i] = x[i] cos[p, i] - x[i + h] sin[p, i]
//             and out[i + h] = x[i + h] cos[p, i] + x[i] sin[p, i]
//
// shape   out, x: [rows, cols], cols a multiple of head_dim   cos, sin: [table_rows, h]   positions: [rows]
// launch  grid = pieces of 2048 pairs, or less: blocks stride over them; block = 256
// needs   out is x itself or apart from it; head_dim even
// how     one thread per eight pairs; a row whose position lies outside the tables becomes NaN
// cost    moves 2 * rows * cols elements, and the tables' rows from the cache

#include "common.cuh"

struct Tables {
    const f32 *cos, *sin;  // of the row's position
    bool inside;
};

// Turns up to eight pairs that belong to one head.
__device__ inline void turn(scalar* to, const scalar* from, u64 half, Tables at, u64 i, u32 n, bool wide) {
    f32 a[8], b[8], cosines[8], sines[8];
    load8(from, n, wide, a);
    load8(from + half, n, wide, b);
    load8(at.cos + i, at.inside ? n : 0, wide, cosines);
    load8(at.sin + i, at.inside ? n : 0, wide, sines);
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
        f32 x1 = a[j], x2 = b[j];
        a[j] = at.inside ? x1 * cosines[j] - x2 * sines[j] : not_a_number();
        b[j] = at.inside ? x2 * cosines[j] + x1 * sines[j] : not_a_number();
    }
    store8(to, n, wide, a);
    store8(to + half, n, wide, b);
}

extern "C" __global__ void __launch_bounds__(256)
apply_rope(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const f32* cos, u64 cos_stride, const f32* sin,
           u64 sin_stride, const u32* positions, u64 rows, u64 cols, u64 head_dim, u64 table_rows) {
    u64 half = head_dim / 2, pairs = cols / 2;
    bool wide = half % 8 == 0 && aligned(x, x_stride, rows) && aligned(out, out_stride, rows)
        && aligned(cos, cos_stride, table_rows) && aligned(sin, sin_stride, table_rows);
    for_each_eight(rows, pairs, [=](u64 row, u64 first) {
        u64 p = positions[row], head, i;
        bool inside = p < table_rows;
        Tables at = {cos + (inside ? p : 0) * cos_stride, sin + (inside ? p : 0) * sin_stride, inside};
        const scalar* from = x + row * x_stride;
        scalar* to = out + row * out_stride;
        divide(first, half, head, i);
        if (wide) return turn(to + head * head_dim + i, from + head * head_dim + i, half, at, i, 8, true);
#pragma unroll 1
        for (u64 pair = first; pair < first + 8 && pair < pairs; pair++) {
            turn(to + head * head_dim + i, from + head * head_dim + i, half, at, i, 1, false);
            if (++i == half) i = 0, head++;
        }
    });
}
