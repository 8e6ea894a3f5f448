// compute_attention_scores: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = best as many blocks as run at once, or less: warps stride over the keys of a head; block = 256
// needs   out apart from q and k
// how     warps are dealt out to the heads of keys; lanes of a warp share keys, and keep the queries in registers where heads
//         are short and aligned (short_dots.cuh), read them with the keys elsewhere (dots.cuh); sums in f32
// cost    moves keys * n_kv_heads * head_dim elements of k for up to eight queries that share a head (four where it is long or unaligned),
//         and q and out

#include "common.cuh"
#include "dots.cuh"
#include "short_dots.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
compute_attention_scores(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                         u64 rows, u64 keys, u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    // Queries that share keys and lie one step apart: all rows of a single head, or one row's group.
    bool single = n_kv_heads == 1 && group == 1;
    u64 count = single ? rows : group, step = single ? q_stride : head_dim;
    bool is_short = head_dim <= 256 && head_dim % 8 == 0 && aligned(q, q_stride, rows) && aligned(k, k_stride, keys);
    // As many warps for each head of keys; with fewer warps, one takes several heads.
    u64 warps = (u64)gridDim.x * 8, at_once = min(warps, (u64)n_kv_heads), of_head, first_head;
    divide((u64)blockIdx.x * 8 + threadIdx.x / 32, at_once, of_head, first_head);
    Turn turn = {of_head, warps / at_once};
    if (turn.warp >= turn.of) return;
    for (u64 row = 0; row < rows; row += single ? rows : 1)
        for (u64 kv_head = first_head; kv_head < n_kv_heads; kv_head += at_once) {
            const scalar* from = q + row * q_stride + kv_head * group * head_dim;
            scalar* to = out + (row * n_kv_heads + kv_head) * group * out_stride;
            const weight* keys_of = k + kv_head * head_dim;
            auto finish = [=](u64 i, u64 j, f32 sum) { store(to + i * out_stride + j, sum * scale); };
            if (is_short) short_dots(from, step, count, keys_of, k_stride, keys, head_dim, turn, finish);
            else dots<4>(from, step, count, keys_of, k_stride, keys, head_dim, turn, finish);
        }
}
