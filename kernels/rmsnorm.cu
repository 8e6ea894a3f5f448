// rmsnorm: out[r, c] = x[r, c] * w[c] * rsqrt(mean_c(x[r, c]^2) + eps)
//
// shape   out, x: [rows, cols], rows by stride   w: [cols]   out holds the weights' type instead of x's if `narrow`
// launch  grid = rows, or less: blocks stride over rows; block = 256
// needs   out is x itself (not if `narrow`) or apart from it
// how     one block per row; squares are summed in f32 over eight columns per thread and step, then over warps in a
//         fixed order. An aligned row of up to 8192 columns stays in registers; another is read twice.
// cost    moves 2 * rows * cols elements and w

#include "common.cuh"

const u32 HELD = 4;  // pieces of eight columns that a thread keeps
const u32 BLOCKS = sizeof(scalar) > sizeof(weight) ? 4 : 0;  // of a multiprocessor, at least; 1 would cost 10 %

__device__ inline f32 squares(const f32 (&v)[8]) {
    f32 sum = 0.0f;
    for (u32 i = 0; i < 8; i++) sum += v[i] * v[i];
    return sum;
}

struct Row {
    const scalar* x;
    scalar* out;
    const weight* w;
    u64 cols;
    bool wide_w, wide_out, narrow;

    __device__ void finish(u64 c, f32 (&v)[8], f32 scale) const {
        f32 gain[8];
        load8(w + c, cols - c, wide_w, gain);
        for (u32 i = 0; i < 8; i++) v[i] = v[i] * scale * gain[i];
        if (narrow) store8((weight*)out + c, cols - c, wide_out, v);
        else store8(out + c, cols - c, wide_out, v);
    }
};

__device__ inline void held_in_registers(const Row& row, f32 eps) {
    Eight<scalar> held[HELD];
    f32 v[8], sum = 0.0f;
    u32 first = threadIdx.x * 8, step = blockDim.x * 8;
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < row.cols) held[i] = *(const Eight<scalar>*)(row.x + first + i * step);
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < row.cols) unpack(held[i], v), sum += squares(v);
    f32 scale = 1.0f / sqrtf(block_sum(sum) / row.cols + eps);
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < row.cols) unpack(held[i], v), row.finish(first + i * step, v, scale);
}

__device__ inline void read_twice(const Row& row, f32 eps, bool wide) {
    f32 v[8], sum = 0.0f;
#pragma unroll 1
    for (u64 c = threadIdx.x * 8; c < row.cols; c += blockDim.x * 8) load8(row.x + c, row.cols - c, wide, v), sum += squares(v);
    f32 scale = 1.0f / sqrtf(block_sum(sum) / row.cols + eps);
#pragma unroll 1
    for (u64 c = threadIdx.x * 8; c < row.cols; c += blockDim.x * 8) load8(row.x + c, row.cols - c, wide, v), row.finish(c, v, scale);
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS)
rmsnorm(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 rows, u64 cols, f32 eps,
        u32 narrow) {
    bool wide_out = narrow ? aligned((weight*)out, out_stride, rows) : aligned(out, out_stride, rows);
    bool wide_x = aligned(x, x_stride, rows), wide_w = aligned(w, 0, 1);
    for (u64 r = blockIdx.x; r < rows; r += gridDim.x) {
        scalar* to = narrow ? (scalar*)((weight*)out + r * out_stride) : out + r * out_stride;
        Row row = {x + r * x_stride, to, w, cols, wide_w, wide_out, narrow != 0};
        if (wide_x && cols % 8 == 0 && cols <= HELD * blockDim.x * 8) held_in_registers(row, eps);
        else read_twice(row, eps, wide_x);
    }
}
