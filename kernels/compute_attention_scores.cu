// compute_attention_scores: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = keys / 32, or less: blocks stride over keys; block = 256
// needs   out apart from q and k
// how     lanes of a warp share keys (dots.cuh), one head of keys after the other; sums in f32
// cost    moves keys * n_kv_heads * head_dim elements of k for up to eight queries that share a head, and q and out

#include "common.cuh"
#include "dots.cuh"

extern "C" __global__ void __launch_bounds__(256)
compute_attention_scores(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                         u64 rows, u64 keys, u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    // Queries that share keys and lie one step apart: all rows of a single head, or one row's group.
    bool single = n_kv_heads == 1 && group == 1;
    u64 count = single ? rows : group, step = single ? q_stride : head_dim;
    for (u64 row = 0; row < rows; row += single ? rows : 1)
        for (u64 kv_head = 0; kv_head < n_kv_heads; kv_head++) {
            const scalar* from = q + row * q_stride + kv_head * group * head_dim;
            scalar* to = out + (row * n_kv_heads + kv_head) * group * out_stride;
            dots(from, step, count, k + kv_head * head_dim, k_stride, keys, head_dim,
                 [=](u64 i, u64 j, f32 sum) { store(to + i * out_stride + j, sum * scale); });
        }
}
