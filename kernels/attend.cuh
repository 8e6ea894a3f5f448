// Attention of up to eight query heads to keys they share, on tensor cores, in parts that can be put together; scores times
// log2(e), so that weights are powers of two. Needs common.cuh, overlap.cuh, mma.cuh and splits.cuh.

#if __CUDA_ARCH__ >= 800

const u32 DIM = 128, HEADS = 8, KEYS = 16, STEP = 8 * KEYS;  // STEP: keys that a block takes at a time

__device__ inline f32 low(u32 pair, bf16) { return __uint_as_float(pair << 16); }
__device__ inline f32 high(u32 pair, bf16) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline f32 low(u32 pair, f16) { return to_f32(f16{(u16)pair}); }
__device__ inline f32 high(u32 pair, f16) { return to_f32(f16{(u16)(pair >> 16)}); }

// What a warp knows of its keys: lane 4 g + t of head g, the sum of weights over its own keys, 32 columns of the output.
struct State {
    f32 max = -infinity(), sum = 0.0f, out[16][4] = {};

    __device__ void take(const uint4 (&q)[4], const uint4 (&k)[2][4], const uint4 (&v)[2][2][2], u64 first, u64 end,
                         f32 log2_scale) {
        u32 t = threadIdx.x % 4, whole[2], rest[2];
        f32 s[2][4] = {}, top = max;
        const uint4 none = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) mma32(s[n], q[i], none, k[n][i], weight());
#pragma unroll
            for (u32 e = 0; e < 2; e++)
                if (first + n * 8 + 2 * t + e < end) top = fmaxf(top, s[n][e] * log2_scale);
        }
        top = lanes_fold(top, 4, [](f32 a, f32 b) { return fmaxf(a, b); });
        f32 before = share_of(max, top);
        max = top, sum *= before;
        if (__any_sync(0xffffffffu, before != 1.0f))
#pragma unroll
            for (u32 j = 0; j < 16; j++)
#pragma unroll
                for (u32 e = 0; e < 4; e++) out[j][e] *= before;
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                s[n][e] = first + n * 8 + 2 * t + e < end ? share_of(s[n][e], log2_scale, max) : 0.0f;
                sum += s[n][e];
            }
            whole[n] = pair(s[n][0], s[n][1], weight());
            rest[n] = pair(s[n][0] - low(whole[n], weight()), s[n][1] - high(whole[n], weight()), weight());
        }
#pragma unroll
        for (u32 c = 0; c < 2; c++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                mma(out[c * 8 + j], whole[0], rest[0], whole[1], rest[1], column(v[0][0][c], v[0][1][c], j),
                    column(v[1][0][c], v[1][1][c], j), weight());
    }
};

__device__ inline uint4 piece(const weight* p, bool inside) { return inside ? once16(p) : make_uint4(0, 0, 0, 0); }

// Leaves what a block's keys give for the heads in shared memory: sums relative to maxima, one set a warp. The keys are those
// that find() says; `keys` is a guess, which is loaded while that is found out. The next kernel begins when its loads no
// longer delay these: at once if the keys are few, which the prefetch before has brought near, else behind the last of them.
template <class Find>
__device__ inline void attend(Keys& keys, Find find, u32 heads, const scalar* q, const weight* k, u64 k_stride,
                              const weight* v, u64 v_stride, u32 head_dim, f32 scale, f32 (*out)[HEADS][DIM + 4],
                              float2 (*peaks)[HEADS]) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    uint4 query[4], key[2][4], value[2][2][2];
    u64 end = keys.end;
    auto load_keys = [&](u64 j) {
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                key[n][i] = piece(k + (j + n * 8 + g) * k_stride + i * 32 + t * 8,
                                  j + n * 8 + g < end && i * 32 + t * 8 < head_dim);
    };
    auto load_values = [&](u64 j) {
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
                value[n][e / 2][e % 2] = piece(v + (j + n * 8 + 2 * t + e / 2) * v_stride + e % 2 * 64 + g * 8,
                                               j + n * 8 + 2 * t + e / 2 < end && e % 2 * 64 + g * 8 < head_dim);
    };
    if (keys.end - keys.first <= STEP) release_next();
    u64 j = keys.first + warp * KEYS;
    load_keys(j), load_values(j);
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        query[i] = g < heads && i * 32 + t * 8 < head_dim ? fresh16(q + g * head_dim + i * 32 + t * 8) : make_uint4(0, 0, 0, 0);
    Keys found = find();
    if (found != keys) {
        j = found.first + warp * KEYS, end = found.end;
        load_keys(j), load_values(j);
    }
    keys = found;
    State state;
    for (; j < end; j += STEP) {
        if (j + STEP >= end) release_next();
        state.take(query, key, value, j, end, scale * LOG2_E);
        load_keys(j + STEP), load_values(j + STEP);
    }
    state.sum = lanes_fold(state.sum, 4, [](f32 a, f32 b) { return a + b; });
    if (t == 0) peaks[warp][g] = make_float2(state.max, state.sum);
    if (g < heads)
#pragma unroll
        for (u32 c = 0; c < 2; c++)
#pragma unroll
            for (u32 e = 0; e < 16; e += 4) {
                const f32(*of)[4] = state.out + c * 8 + e % 8;
                u32 half = e / 8;
                *(float4*)&out[warp][g][c * 64 + 16 * t + e] =
                    make_float4(of[0][half] + of[0][half + 2], of[1][half] + of[1][half + 2],
                                of[2][half] + of[2][half + 2], of[3][half] + of[3][half + 2]);
            }
    __syncthreads();
}

#endif
