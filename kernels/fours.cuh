// Sums weighted by a softmax whose weights are powers of two, four columns at a time. Needs common.cuh.

const f32 LOG2_E = 1.4426950408889634f;

// 2^(x * scale - max) that counts x * scale = max = -inf as 1, which a larger maximum scales to 0 later. The product is not
// rounded, so that large scores cost no accuracy.
__device__ inline f32 share_of(f32 x, f32 scale, f32 max) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(__fmaf_rn(x, scale, -max)));
    return x * scale == max ? 1.0f : y;
}
__device__ inline f32 share_of(f32 x, f32 max) { return share_of(x, 1.0f, max); }

// Four columns of a head, from parts that are each relative to their own maximum.
struct Four {
    f32 max = -infinity(), sum = 0.0f;
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

    // Adds n parts, at most eight, in order; tops(i) gives maximum and sum of the i-th, columns(i) its columns.
    template <class Tops, class Columns> __device__ void add(u32 n, Tops tops, Columns columns) {
        float2 top[8];
        f32 before = max;
#pragma unroll
        for (u32 i = 0; i < 8; i++) top[i] = i < n ? tops(i) : make_float2(-infinity(), 0.0f);
#pragma unroll
        for (u32 i = 0; i < 8; i++) max = fmaxf(max, top[i].x);
        f32 kept = share_of(before, max);
        sum *= kept, total.x *= kept, total.y *= kept, total.z *= kept, total.w *= kept;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            f32 share = share_of(top[i].x, max);
            float4 part = i < n ? columns(i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            sum += top[i].y * share;
            total.x += part.x * share, total.y += part.y * share, total.z += part.z * share, total.w += part.w * share;
        }
    }

    // Scores with +inf, or -inf alone, have no softmax.
    __device__ void columns(f32 (&v)[4]) const {
        f32 inverse = fabsf(max) < infinity() ? __fdividef(1.0f, sum) : not_a_number();
        v[0] = total.x * inverse, v[1] = total.y * inverse, v[2] = total.z * inverse, v[3] = total.w * inverse;
    }
};
