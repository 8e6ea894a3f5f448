// compute_attention_scores_mma: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = ceil(keys / 8) * n_kv_heads / 8, or less: blocks stride; block = 256
// needs   head_dim a multiple of 8; q and k aligned to 16 bytes in every row; out apart from q and k; to overlap, k must
//         not be written by a kernel in flight
// how     a warp takes eight keys of one head and, 16 at a time, the queries that share it; sums in f32
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
    u64 items = (keys + 7) / 8 * n_kv_heads, pairs = rows * group;
    bool waited = false;
    for (u64 item = (u64)blockIdx.x * 8 + threadIdx.x / 32; item < items; item += (u64)gridDim.x * 8) {
        u64 kv_head = item % n_kv_heads, base = item / n_kv_heads * 8;
        const weight* key = k + min(base + g, keys - 1) * k_stride + kv_head * head_dim + t * 8;
        uint4 keys_held[4], a[4], b[4];
        load_pieces(key, left, keys_held);
        if (!waited) release_next(), await_previous(), waited = true;
        for (u64 first = 0; first < pairs; first += 16) {
            u64 pa = first + g, pb = pa + 8;
            const scalar* qa = q + pa / group * q_stride + (kv_head * group + pa % group) * head_dim + t * 8;
            const scalar* qb = q + pb / group * q_stride + (kv_head * group + pb % group) * head_dim + t * 8;
            f32 sums[4] = {};
            for (u32 c = 0; c < head_dim; c += 128) {
                u32 rest = left - min(c, left);
                if (c > 0) load_pieces(key + c, rest, keys_held);
                load_pieces(qa + c, pa < pairs ? rest : 0, a);
                load_pieces(qb + c, pb < pairs ? rest : 0, b);
#pragma unroll
                for (u32 i = 0; i < 4; i++) mma32(sums, a[i], b[i], keys_held[i], weight());
            }
            if (head_dim > 128) load_pieces(key, left, keys_held);
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                u64 pair = first + g + e / 2 * 8, j = base + 2 * t + e % 2;
                u64 row = (pair / group * n_kv_heads + kv_head) * group + pair % group;
                if (pair < pairs && j < keys) store(out + row * out_stride + j, sums[e] * scale);
            }
        }
    }
}
