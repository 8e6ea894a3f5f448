// compute_attention_scores_mma: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = ceil(keys / 8) * n_kv_heads / 8, or less: blocks stride; block = 256
// needs   head_dim a multiple of 8; q and k aligned to 16 bytes in every row; out apart from q and k; to overlap, k must
//         not be written by a kernel in flight
// how     a warp takes eight keys of one head and, eight at a time, the queries that share it; sums in f32
// cost    moves keys * n_kv_heads * head_dim elements of k, and q and out

#include "common.cuh"
#include "overlap.cuh"
#include "mma.cuh"

// Four pieces of a row, 32 columns apart, of those that lie below `left`.
template <class E> __device__ inline void load_pieces(const E* p, u32 left, uint4 (&held)[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) held[i] = i * 32 < left ? *(const uint4*)(p + i * 32) : make_uint4(0, 0, 0, 0);
}

extern "C" __global__ void __launch_bounds__(256)
compute_attention_scores_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                             u64 rows, u64 keys, u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, left = head_dim - min(t * 8, head_dim);
    u64 items = (keys + 7) / 8 * n_kv_heads;
    bool waited = false;
    for (u64 item = (u64)blockIdx.x * 8 + threadIdx.x / 32; item < items; item += (u64)gridDim.x * 8) {
        u64 kv_head, tile;
        divide(item, n_kv_heads, tile, kv_head);
        const weight* key = k + min(tile * 8 + g, keys - 1) * k_stride + kv_head * head_dim + t * 8;
        uint4 held[4], a[4];
        const uint4 none = make_uint4(0, 0, 0, 0);
        load_pieces(key, left, held);
        if (!waited) release_next(), await_previous(), waited = true;
        for (u64 pair = g; pair < (rows * group + 7) / 8 * 8; pair += 8) {
            u64 row, head, j = tile * 8 + 2 * t;
            divide(pair, group, row, head);
            head += kv_head * group;
            f32 sums[4] = {};
#pragma unroll 1
            for (u32 c = 0; c < head_dim; c += 128) {
                u32 rest = left - min(c, left);
                if (head_dim > 128) load_pieces(key + c, rest, held);
                load_pieces(q + row * q_stride + head * head_dim + t * 8 + c, row < rows ? rest : 0, a);
#pragma unroll
                for (u32 i = 0; i < 4; i++) mma32(sums, a[i], none, held[i], weight());
            }
            scalar* to = out + (row * n_kv_heads * group + head) * out_stride + j;
            if (row < rows && j < keys) store(to, sums[0] * scale);
            if (row < rows && j + 1 < keys) store(to + 1, sums[1] * scale);
        }
    }
}
