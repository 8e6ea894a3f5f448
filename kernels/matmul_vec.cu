// matmul_vec: out[j] = sum_c x[c] * w[j, c] (+ out[j] if `accumulate`)
//
// shape   x: [k]   w: [n, k], rows by stride   out: [n], f32 instead of x's type if `wide`
// launch  grid = ceil(n / 4) * share / 8, rounded up; block = 256; shared = 98304 or less, k of x; share in 1, 2, 4, 8
// needs   k a multiple of 8; x and w aligned to 16 bytes in every row; out apart from x and w; to overlap, w must not be
//         written by a kernel in flight
// how     warps stream four rows at a time, `share` warps a part of each (rows.cuh); sums in f32, in a fixed order
// cost    moves n * k elements of w; x comes from the cache

#include "common.cuh"
#include "overlap.cuh"
#include "rows.cuh"

const u32 R = 4, U = sizeof(weight);

extern "C" __global__ void __launch_bounds__(256)
matmul_vec(scalar* out, const scalar* x, const weight* w, u64 w_stride, u64 n, u32 k, u32 share, u32 accumulate,
           u32 wide) {
    u32 pieces = k / PIECE;
    f32 old[R] = {};
    stream_rows<R, U, scalar>(w, w_stride, (n + R - 1) / R, pieces, share,
        [=](u64 group, u32 r) { return min(group * R + r, n - 1); },
        [] {},
        [=, &old](uint4* vector, u64 group) {
            const u32 each = 16 / sizeof(scalar);
            for (u32 i = threadIdx.x * each; i < k; i += 256 * each) fetch16(vector + place<scalar>(i, pieces), x + i);
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                if (!accumulate || group >= n || group * R + r >= n) continue;
                old[r] = wide ? fresh((f32*)out + group * R + r) : to_f32(fresh(out + group * R + r));
            }
            fetched();
        },
        [=, &old](u64 group, const f32 (&sums)[R]) {
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                u64 j = group * R + r;
                if (j >= n) continue;
                if (wide) store((f32*)out + j, old[r] + sums[r]);
                else store(out + j, old[r] + sums[r]);
            }
        });
}
