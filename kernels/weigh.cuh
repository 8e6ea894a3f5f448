// From scores to weights to the output, for 16 queries of a warp at a time.

#include "prompt.cuh"

// 2^x
__device__ inline f32 power(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 16 queries of a warp: lane 4 g + t has of queries g and g + 8 the largest score, its part of the sum of weights, and of the
// weighted values, relative to that score, columns 8 f + 2 t and 8 f + 2 t + 1 of each part.
template <u32 PARTS, u32 WIDE> struct State {
    f32 top[2] = {-infinity(), -infinity()}, sum[2] = {}, out[PARTS][WIDE][4] = {};

    // Turns scores into weights, relative to the largest score now, and gives what that takes from those before.
    template <u32 KEYS> __device__ void weigh(f32 (&s)[KEYS / 8][4], f32 (&before)[2], f32 log2_scale) {
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            f32 max = top[h];
#pragma unroll
            for (u32 f = 0; f < KEYS / 8; f++) max = fmaxf(max, fmaxf(s[f][2 * h], s[f][2 * h + 1]));
            max = lanes_fold(max, 4, [](f32 a, f32 b) { return fmaxf(a, b); });
            // The same rounded product in every power that is relative to it.
            f32 base = max == -infinity() ? 0.0f : __fmul_rn(max, log2_scale);
            before[h] = power(__fmul_rn(top[h], log2_scale) - base);
            top[h] = max, sum[h] *= before[h];
#pragma unroll
            for (u32 f = 0; f < KEYS / 8; f++)
#pragma unroll
                for (u32 e = 2 * h; e < 2 * h + 2; e++) {
                    s[f][e] = power(__fmaf_rn(s[f][e], log2_scale, -base));
                    sum[h] += s[f][e];
                }
        }
    }

    __device__ void shrink(const f32 (&before)[2]) {
        if (!__any_sync(0xffffffffu, before[0] != 1.0f || before[1] != 1.0f)) return;
#pragma unroll
        for (u32 p = 0; p < PARTS; p++)
#pragma unroll
            for (u32 f = 0; f < WIDE; f++)
#pragma unroll
                for (u32 e = 0; e < 4; e++) out[p][f][e] *= before[e / 2];
    }

    // Writes the queries from `first` on, except those that it gives as bits. Weights of keys that a query does not see are 0,
    // and 0 times infinity is not: such results must be computed again, and those of scores too large for `weigh`.
    __device__ u32 finish(const Prompt& of, u32 first, u32 lane, f32 log2_scale) {
        u32 g = lane / 4, t = lane % 4, given = 0;
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            f32 inverse = 1.0f / lanes_fold(sum[h], 4, [](f32 a, f32 b) { return a + b; });
            u32 query = first + g + 8 * h;
            bool inside = query < of.queries(), fine = fabsf(top[h] * log2_scale) < 1048576.0f;
#pragma unroll
            for (u32 i = 0; i < PARTS * WIDE; i++) {
                f32 (&o)[4] = out[i / WIDE][i % WIDE];
                o[2 * h] *= inverse, o[2 * h + 1] *= inverse;
                fine = fine && fabsf(o[2 * h]) < infinity() && fabsf(o[2 * h + 1]) < infinity();
            }
            u32 failed = __ballot_sync(0xffffffffu, inside && !fine);
            scalar* to = of.out + of.out_at(query) + 2 * t;
            if (inside && !(failed >> 4 * g & 15))
#pragma unroll
                for (u32 i = 0; i < PARTS * WIDE; i++) {
                    const f32 (&o)[4] = out[i / WIDE][i % WIDE];
                    if (i * 8 < of.head_dim) *(u32*)(to + i * 8) = pair(o[2 * h], o[2 * h + 1], scalar());
                }
            for (u32 i = 0; i < 8; i++) given |= (failed >> 4 * i & 15 ? 1u : 0u) << (8 * h + i);
        }
        return given;
    }
};

// Takes keys that a query does not see out of the scores of 16 queries from `first` on and KEYS keys from j on.
template <u32 KEYS> __device__ inline void mask(f32 (&s)[KEYS / 8][4], const Prompt& of, u32 first, u32 lane, u32 j) {
    u32 g = lane / 4, t = lane % 4;
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        Seen seen = seen_by(of, min(first + g + 8 * h, of.queries() - 1) / of.group);
        i32 low = (i32)(seen.begin - j), high = (i32)(seen.end - j);
#pragma unroll
        for (u32 f = 0; f < KEYS / 8; f++)
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                i32 key = 8 * f + 2 * t + e;
                if (key < low || key >= high) s[f][2 * h + e] = -infinity();
            }
    }
}

// Two of `weigh`'s fragments as the left operand of a product of 16 keys.
__device__ inline void narrow(u32 (&to)[4], const f32 (&a)[4], const f32 (&b)[4]) {
    to[0] = pair(a[0], a[1], scalar()), to[1] = pair(a[2], a[3], scalar());
    to[2] = pair(b[0], b[1], scalar()), to[3] = pair(b[2], b[3], scalar());
}
