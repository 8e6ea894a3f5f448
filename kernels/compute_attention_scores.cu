// compute_attention_scores: out[i, j] = scale * sum_c q[i, c] * k[j, c]
//
// shape   q: [rows, head_dim]   k: [keys, head_dim]   out: [rows, keys]   rows by stride
// launch  grid = keys / 32, or less: blocks stride over keys; block = 256
// needs   out apart from q and k; rows above 8 cost a pass over k for every eight
// how     lanes of a warp share keys (dots.cuh); sums in f32
// cost    moves keys * head_dim elements of k, and q and out

#include "common.cuh"
#include "dots.cuh"

extern "C" __global__ void __launch_bounds__(256)
compute_attention_scores(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                         u64 rows, u64 keys, u64 head_dim, f32 scale) {
    dots(q, q_stride, rows, k, k_stride, keys, head_dim,
         [=](u64 i, u64 j, f32 sum) { store(out + i * out_stride + j, sum * scale); });
}
