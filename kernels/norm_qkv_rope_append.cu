// norm_qkv_rope_append: the front of an attention layer for one row at position p: h = norm * x / sqrt(mean(x^2) + eps); queries
//         h . w[i] turned by p to q; keys turned by p and values to rows p of the caches
//
// shape   x, norm: [k]   w: [(n_heads + 2 * n_kv_heads) * head_dim, k], rows by stride   q: [n_heads * head_dim]
//         keys, values: [capacity, n_kv_heads * head_dim], rows by stride   cos, sin: [table_rows, head_dim / 2]
// launch  grid = rows of w / 4 * share / 8, rounded up; block = 256; shared = 98304 or less, k of f32; share in 1, 2, 4, 8
// needs   k a multiple of 8; head_dim a multiple of 4; x, norm and w aligned to 16 bytes in every row; outputs apart from the
//         rest; to overlap, w and norm must not be written by a kernel in flight
// how     a warp streams pairs of rows that turn together (rows.cuh), `share` warps a part of each; every block stages
//         the normed row, whose scale comes last. A position outside the tables gives NaN, one outside the caches leaves
//         them as they are. Sums in f32, in a fixed order
// cost    moves w; x, norm and tables come from the cache

#include "common.cuh"
#include "overlap.cuh"
#include "rows.cuh"

const u32 PAIRS = 2, R = 2 * PAIRS, U = sizeof(weight);

// Neighbours in the first half of a head; their partners lie as far in the second.
struct Pairs {
    u32 head, column;

    __device__ Pairs(u64 group, u32 half) : head(group / (half / PAIRS)), column(group % (half / PAIRS) * PAIRS) {}
};

extern "C" __global__ void __launch_bounds__(256)
norm_qkv_rope_append(weight* q, weight* keys, u64 keys_stride, weight* values, u64 values_stride, const f32* x,
                     const weight* norm, const weight* w, u64 w_stride, const f32* cos, u64 cos_stride, const f32* sin,
                     u64 sin_stride, const u32* position, u64 table_rows, u64 capacity, u32 k, u32 n_heads,
                     u32 n_kv_heads, u32 head_dim, u32 share, f32 eps) {
    __shared__ f32 squares[8];
    Norm h(x, norm, k, eps);
    u32 half = head_dim / 2;
    u64 groups = (u64)(n_heads + 2 * n_kv_heads) * half / PAIRS, p = 0;
    f32 c[PAIRS], s[PAIRS] = {};
    for (u32 i = 0; i < PAIRS; i++) c[i] = 1.0f;
    stream_rows<R, U, f32>(w, w_stride, groups, k / PIECE, share,
        [=](u64 group, u32 r) {
            Pairs pairs(group, half);
            return (u64)pairs.head * head_dim + pairs.column + r / 2 + r % 2 * half;
        },
        [&] { h.weights(); },
        [&](uint4* vector, u64 group) {
            if (group < groups) p = fresh(position);
            h.row(vector, squares);
            Pairs pairs(group, half);
            if (group >= groups || pairs.head >= n_heads + n_kv_heads) return;
#pragma unroll
            for (u32 i = 0; i < PAIRS; i++) {
                c[i] = p < table_rows ? cos[p * cos_stride + pairs.column + i] : not_a_number();
                s[i] = p < table_rows ? sin[p * sin_stride + pairs.column + i] : not_a_number();
            }
        },
        [&](u64 group, const f32 (&sums)[R]) {
            Pairs pairs(group, half);
            bool is_query = pairs.head < n_heads, is_value = pairs.head >= n_heads + n_kv_heads;
            if (!is_query && p >= capacity) return;
            f32 scale = h.scale(squares);
            u32 kv_head = pairs.head - n_heads - (is_value ? n_kv_heads : 0);
            weight* to = is_query ? q + (u64)pairs.head * head_dim
                                  : (is_value ? values + p * values_stride : keys + p * keys_stride) + (u64)kv_head * head_dim;
#pragma unroll
            for (u32 i = 0; i < PAIRS; i++) {
                f32 low = sums[2 * i] * scale, high = sums[2 * i + 1] * scale;
                store(to + pairs.column + i, is_value ? low : low * c[i] - high * s[i]);
                store(to + pairs.column + i + half, is_value ? high : high * c[i] + low * s[i]);
            }
        });
}
