// softmax: out[r, c] = exp(x[r, c] - max_c x[r, c]) / sum_c exp(x[r, c] - max_c x[r, c])
//
// shape   out, x: [rows, cols], rows by stride
// launch  grid = rows, or less: blocks stride over rows; block = 256
// needs   out is x itself or apart from it
// how     one block per row. An aligned row of up to 8192 columns stays in registers, as it lies in memory, between its
//         maximum, its sum and its shares: computing powers twice is cheaper than the registers that would hold them in
//         f32. Of another row, each thread keeps a running maximum and a sum relative to it, and a second pass reads the
//         row again. All meet in a fixed order. A row whose maximum is infinite becomes NaN.
// cost    moves 2 * rows * cols elements

#include "common.cuh"

const u32 HELD = 4;  // pieces of eight columns that a thread keeps

__device__ inline f32 block_max(f32 v) {
    return block_fold(v, [](f32 a, f32 b) { return fmaxf(a, b); });
}
__device__ inline f32 inverse(f32 max, f32 sum) { return fabsf(max) < infinity() ? 1.0f / sum : not_a_number(); }

// exp(d), and 0 below the least normal number; off by at most (4 + |d|) 2^-24 of it.
__device__ inline f32 power(f32 d) {
    f32 result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(d * 1.4426950408889634f));
    return result;
}
// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : power(x - max); }

__device__ inline void held_in_registers(const scalar* x, scalar* out, u32 cols) {
    Eight<scalar> held[HELD];
    f32 v[8], max = -infinity(), sum = 0.0f;
    u32 first = threadIdx.x * 8, step = blockDim.x * 8;
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < cols) held[i] = *(const Eight<scalar>*)(x + first + i * step);
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < cols) {
            unpack(held[i], v);
            for (u32 e = 0; e < 8; e++) max = fmaxf(max, v[e]);
        }
    max = block_max(max);
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < cols) {
            unpack(held[i], v);
            for (u32 e = 0; e < 8; e++) sum += power(v[e] - max);
        }
    f32 share = inverse(max, block_sum(sum));
#pragma unroll
    for (u32 i = 0; i < HELD; i++)
        if (first + i * step < cols) {
            unpack(held[i], v);
            for (u32 e = 0; e < 8; e++) v[e] = power(v[e] - max) * share;
            store8_wide(out + first + i * step, v);
        }
}

__device__ inline void read_twice(const scalar* x, scalar* out, u64 cols, bool wide) {
    f32 v[8], max = -infinity(), sum = 0.0f;
    for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
        load8(x + c, cols - c, wide, v);
        f32 before = max;
        for (u32 i = 0; i < 8; i++) max = c + i < cols ? fmaxf(max, v[i]) : max;
        sum *= relative(before, max);
        for (u32 i = 0; i < 8; i++) sum += c + i < cols ? relative(v[i], max) : 0.0f;
    }
    f32 all = block_max(max), share = inverse(all, block_sum(sum * relative(max, all)));
    for (u64 c = threadIdx.x * 8; c < cols; c += blockDim.x * 8) {
        load8(x + c, cols - c, wide, v);
        for (u32 i = 0; i < 8; i++) v[i] = power(v[i] - all) * share;
        store8(out + c, cols - c, wide, v);
    }
}

extern "C" __global__ void __launch_bounds__(256)
softmax(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows) && aligned(out, out_stride, rows);
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const scalar* from = x + row * x_stride;
        scalar* to = out + row * out_stride;
        if (wide && cols % 8 == 0 && cols <= HELD * blockDim.x * 8) held_in_registers(from, to, cols);
        else read_twice(from, to, cols, wide);
    }
}
