// norm_swiglu: out[i] = silu(h . w[i]) * (h . w[ffn + i]) with h = norm * x / sqrt(mean(x^2) + eps), for one row
//
// shape   x, norm: [k]   w: [2 * ffn, k], rows by stride   out: [ffn]
// launch  grid = ceil(ffn / OUTPUTS) * share / 8, rounded up; block = 256; shared = 98304 or less, k of f32; share in 1, 2, 4, 8
// needs   k a multiple of 8; x, norm and w aligned to 16 bytes in every row; out apart from the rest; to overlap, w and
//         norm must not be written by a kernel in flight
// how     a warp streams rows of gate and those of up (rows.cuh), `share` warps a part of each; every block stages the
//         normed row, whose scale comes last; sums in f32, in a fixed order
// cost    moves 2 * ffn * k elements of w; x and norm come from the cache

#include "common.cuh"
#include "overlap.cuh"
#include "rows.cuh"

const u32 OUTPUTS = sizeof(weight) / 2, R = 2 * OUTPUTS, U = 4;

extern "C" __global__ void __launch_bounds__(256)
norm_swiglu(weight* out, const f32* x, const weight* norm, const weight* w, u64 w_stride, u64 ffn, u32 k, u32 share,
            f32 eps) {
    __shared__ f32 squares[8];
    Norm h(x, norm, k, eps);
    stream_rows<R, U, f32>(w, w_stride, (ffn + OUTPUTS - 1) / OUTPUTS, k / PIECE, share,
        [=](u64 group, u32 r) { return min(group * OUTPUTS + r / 2, ffn - 1) + r % 2 * ffn; },
        [&] { h.weights(); },
        [&](uint4* vector, u64) { h.row(vector, squares); },
        [&](u64 group, const f32 (&sums)[R]) {
            f32 scale = h.scale(squares);
#pragma unroll
            for (u32 i = 0; i < OUTPUTS; i++) {
                f32 gate = sums[2 * i] * scale, up = sums[2 * i + 1] * scale;
                if (group * OUTPUTS + i < ffn) store(out + group * OUTPUTS + i, gate / (1.0f + expf(-gate)) * up);
            }
        });
}
