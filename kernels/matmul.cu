// matmul: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n]
//         rows by stride; out is f32 instead of x's type if `wide`
// launch  grid = tiles of 64 x 64, or less: blocks stride over tiles; block = 256
// needs   out apart from x and w
// how     a block multiplies tiles of 64 x 16 in shared memory, 4 x 4 outputs per thread, in f32. Each operand is read
//         along the dimension in which it is contiguous.
// cost    2 * m * n * k operations; moves x n / 64 times and w m / 64 times, from the cache at best

#include "common.cuh"

const u32 TILE = 64, DEPTH = 16;

// Rows first .. first + 64 and columns c .. c + 16 of [rows, k], 0 outside, as tile[column][row].
template <class E>
__device__ inline void load_rows(const E* from, u64 stride, u64 first, u64 rows, u64 c, u64 k, f32 (*tile)[TILE + 4]) {
    u32 row = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
    const E* p = from + (first + row) * stride + c + column;
    for (u32 i = 0; i < 4; i++) {
        bool inside = first + row < rows && c + column + i < k;
        tile[column + i][row] = inside ? to_f32(p[i]) : 0.0f;
    }
}

// The same of [k, rows].
template <class E>
__device__ inline void load_columns(const E* from, u64 stride, u64 first, u64 rows, u64 c, u64 k, f32 (*tile)[TILE + 4]) {
    u32 column = threadIdx.x / 16, row = threadIdx.x % 16 * 4;
    const E* p = from + (c + column) * stride + first + row;
    for (u32 i = 0; i < 4; i++) {
        bool inside = first + row + i < rows && c + column < k;
        tile[column][row + i] = inside ? to_f32(p[i]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256)
matmul(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
       u32 plain, u32 accumulate, u32 wide) {
    __shared__ __align__(16) f32 left[DEPTH][TILE + 4], right[DEPTH][TILE + 4];
    u64 across = (n + TILE - 1) / TILE, down = (m + TILE - 1) / TILE;
    u32 row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    for (u64 tile = blockIdx.x; tile < across * down; tile += gridDim.x) {
        u64 i = tile / across * TILE, j = tile % across * TILE;
        f32 sums[4][4] = {};
        for (u64 c = 0; c < k; c += DEPTH) {
            __syncthreads();
            load_rows(x, x_stride, i, m, c, k, left);
            if (plain) load_columns(w, w_stride, j, n, c, k, right);
            else load_rows(w, w_stride, j, n, c, k, right);
            __syncthreads();
#pragma unroll
            for (u32 d = 0; d < DEPTH; d++) {
                float4 a = *(const float4*)&left[d][row], b = *(const float4*)&right[d][column];
                f32 p[4] = {a.x, a.y, a.z, a.w}, q[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
                for (u32 r = 0; r < 4; r++)
#pragma unroll
                    for (u32 s = 0; s < 4; s++) sums[r][s] += p[r] * q[s];
            }
        }
#pragma unroll
        for (u32 r = 0; r < 4; r++)
#pragma unroll
            for (u32 s = 0; s < 4; s++) {
                if (i + row + r >= m || j + column + s >= n) continue;
                u64 at = (i + row + r) * out_stride + j + column + s;
                if (wide) put((f32*)out + at, sums[r][s], accumulate);
                else put(out + at, sums[r][s], accumulate);
            }
    }
}
