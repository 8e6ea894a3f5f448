// compute_attention_scores_mma: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = ceil(keys / 8) * n_kv_heads / 8, or less, best as many as run at once: blocks stride; block = 256
// needs   head_dim a multiple of 8; q and k aligned to 16 bytes in every row; out apart from q and k; to overlap, k must
//         not be written by a kernel in flight
// how     a warp takes eight keys of one head, of which it keeps 128 columns, and, eight at a time, the queries that share
//         it; behind the last of them it asks for its next keys. Scores of two neighbouring keys leave as one word where that
//         is aligned. Sums in f32
// cost    moves keys * n_kv_heads * head_dim elements of k, and q and out

#include "common.cuh"
#include "overlap.cuh"
#include "mma.cuh"

// Eight elements, or 0.
template <class E> __device__ inline uint4 piece(const E* p, bool inside) {
    return inside ? *(const uint4*)p : make_uint4(0, 0, 0, 0);
}

extern "C" __global__ void __launch_bounds__(256, 4)
compute_attention_scores_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                             u64 rows, u64 keys, u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    u64 items = (keys + 7) / 8 * n_kv_heads;
    bool paired = ((u64)out | out_stride * sizeof(scalar)) % 4 == 0;
    const uint4 none = make_uint4(0, 0, 0, 0);
    u64 item = (u64)blockIdx.x * 8 + threadIdx.x / 32, kv_head, tile;
    uint4 held[4];
    const weight* key;
    auto load = [&] {
        divide(item, n_kv_heads, tile, kv_head);
        key = k + min(tile * 8 + g, keys - 1) * k_stride + kv_head * head_dim + t * 8;
#pragma unroll
        for (u32 i = 0; i < 4; i++) held[i] = piece(key + i * 32, item < items && t * 8 + i * 32 < head_dim);
    };
    load();
    release_next(), await_previous();
#pragma unroll 1
    while (item < items) {
        u64 j = tile * 8 + 2 * t;
        u32 head_of = (u32)kv_head * group;
#pragma unroll 1
        for (u64 first = 0; first < rows * group; first += 8) {
            u64 row, head;
            divide(first + g, group, row, head);
            u32 of = head_of + (u32)head, reach = row < rows ? head_dim : 0;
            const scalar* from = q + row * q_stride + (u64)of * head_dim + t * 8;
            f32 sums[4] = {};
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                mma32(sums, piece(from + i * 32, t * 8 + i * 32 < reach), none, held[i], weight());
#pragma unroll 1
            for (u32 c = 128; c < head_dim; c += 32)
                mma32(sums, piece(from + c, t * 8 + c < reach), none, piece(key + c, t * 8 + c < head_dim), weight());
            if (first + 8 >= rows * group) item += (u64)gridDim.x * 8, load();
            u64 left = reach && j < keys ? keys - j : 0;
            scalar* to = out + (row * n_kv_heads * group + of) * out_stride + j;
            if (paired && left > 1) *(u32*)to = pair(sums[0] * scale, sums[1] * scale, scalar());
            if (left == 1 || !paired && left > 1) store(to, sums[0] * scale);
            if (!paired && left > 1) store(to + 1, sums[1] * scale);
        }
    }
}
