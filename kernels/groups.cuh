// Attention of up to four query heads to keys they share, by groups of lanes that hold a key at a time, eight columns a
// lane; scores times log2(e), so that weights are powers of two. Needs common.cuh, overlap.cuh and splits.cuh.

const u32 HEADS = 4;

// Where a thread stands: its group and, in it, its columns and the head whose scores it comes to hold.
struct Lanes {
    u32 count, groups, group, column, left, share, head;

    __device__ Lanes(u32 head_dim) {
        count = max(lanes_for((head_dim + 7) / 8, 32), HEADS), groups = blockDim.x / count;
        u32 lane = threadIdx.x % count;
        group = threadIdx.x / count, column = lane * 8, left = head_dim - min(column, head_dim);
        share = count / HEADS, head = lane / share;
    }

    // Sums of the lanes' values for each head: every lane gets that of its head.
    __device__ f32 sum(const f32 (&of)[HEADS]) const {
        bool upper = head / 2, odd = head % 2;
        f32 a = (upper ? of[2] : of[0]) + __shfl_xor_sync(0xffffffffu, upper ? of[0] : of[2], 2 * share);
        f32 b = (upper ? of[3] : of[1]) + __shfl_xor_sync(0xffffffffu, upper ? of[1] : of[3], 2 * share);
        f32 own = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, share);
        return lanes_fold(own, share, [](f32 a, f32 b) { return a + b; });
    }

    // What the lanes of head h hold.
    __device__ f32 of(f32 v, u32 h) const { return __shfl_sync(0xffffffffu, v, h * share, count); }
};

__device__ inline Eight<f32> once(const f32* p) {
    uint4 low = once16(p), high = once16(p + 4);
    return Eight<f32>{*(const float4*)&low, *(const float4*)&high};
}
template <class E> __device__ inline Eight<E> once(const E* p) { return {once16(p)}; }

// Eight elements of a key or a value on their way.
template <bool WIDE> struct Piece {
    Eight<weight> raw;

    __device__ void load(const weight* p, u32 left) {
        raw = {};
        if (left > 0) raw = once(p);
    }
    __device__ void get(f32 (&out)[8]) const { unpack(raw, out); }
};
template <> struct Piece<false> {
    f32 values[8];

    __device__ void load(const weight* p, u32 left) { load8(p, left, false, values); }
    __device__ void get(f32 (&out)[8]) const {
#pragma unroll
        for (u32 e = 0; e < 8; e++) out[e] = values[e];
    }
};

// What the groups of a block found: of each the maximum and the sum of weights relative to it, and their sums of values.
struct Found {
    float2 tops[64][HEADS];
    float4 outs[HEADS][512];

    // A thread's four columns of a head, of all groups.
    __device__ Four four(const Lanes& lanes, u32 h, u32 c) const {
        Four all;
        for (u32 first = 0; first < lanes.groups; first += 8)
            all.add(min(lanes.groups - first, 8u), [=](u32 g) { return tops[first + g][h]; },
                    [=](u32 g) { return outs[h][(first + g) * lanes.count * 2 + c / 4]; });
        return all;
    }
};

// Rows of the cache, of one head.
struct Span {
    const weight* k;
    u64 k_stride;
    const weight* v;
    u64 v_stride;
};

// KEYS keys a group at a time: those that find() says; `keys` is a guess, which is loaded while that is found out. The next
// kernel begins when its loads no longer delay these. Called by all threads of the block.
template <bool WIDE, u32 KEYS, class Find> __device__ inline void
attend(Keys& keys, Find find, const Span& span, const Lanes& lanes, const f32 (&q)[HEADS][8], f32 log2_scale, Found& found) {
    Piece<WIDE> key[KEYS], value[KEYS];
    f32 max = -infinity(), sum = 0.0f, out[HEADS][8] = {};
    const u32 step = KEYS * lanes.groups;
    auto load = [&](Piece<WIDE> (&pieces)[KEYS], const weight* p, u64 stride, u64 base) {
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            u64 j = base + n * lanes.groups;
            pieces[n].load(p + j * stride + lanes.column, j < keys.end ? lanes.left : 0);
        }
    };
    auto load_both = [&](u64 j) { load(key, span.k, span.k_stride, j), load(value, span.v, span.v_stride, j); };
    if (keys.end - keys.first <= step) release_next();
    load_both((u64)keys.first + lanes.group);
    Keys sure = find();
    if (sure != keys) keys = sure, load_both((u64)keys.first + lanes.group);
    keys = sure;
    u64 j = (u64)keys.first + lanes.group;
    // All groups go round equally often, because lanes of a warp meet in shuffles.
    for (u64 base = keys.first; base < keys.end; base += step, j += step) {
        f32 scores[KEYS], top = max;
        if (base + step >= keys.end) release_next();
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            f32 of_key[8], dots[HEADS] = {};
            key[n].get(of_key);
#pragma unroll
            for (u32 h = 0; h < HEADS; h++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) dots[h] += q[h][e] * of_key[e];
            scores[n] = lanes.sum(dots);
            if (j + n * lanes.groups < keys.end) top = fmaxf(top, scores[n] * log2_scale);
        }
        load(key, span.k, span.k_stride, j + step);
        f32 before = share_of(max, top);
        max = top, sum *= before;
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            scores[n] = j + n * lanes.groups < keys.end ? share_of(scores[n], log2_scale, max) : 0.0f;
            sum += scores[n];
        }
#pragma unroll
        for (u32 h = 0; h < HEADS; h++) {
            f32 scaled = lanes.of(before, h);
#pragma unroll
            for (u32 e = 0; e < 8; e++) out[h][e] *= scaled;
        }
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            f32 of_value[8];
            value[n].get(of_value);
#pragma unroll
            for (u32 h = 0; h < HEADS; h++) {
                f32 factor = lanes.of(scores[n], h);
#pragma unroll
                for (u32 e = 0; e < 8; e++) out[h][e] += factor * of_value[e];
            }
        }
        load(value, span.v, span.v_stride, j + step);
    }
    if (threadIdx.x % lanes.share == 0) found.tops[lanes.group][lanes.head] = make_float2(max, sum);
#pragma unroll
    for (u32 h = 0; h < HEADS; h++)
        for (u32 half = 0; half < 2; half++)
            found.outs[h][threadIdx.x * 2 + half] =
                make_float4(out[h][half * 4], out[h][half * 4 + 1], out[h][half * 4 + 2], out[h][half * 4 + 3]);
    __syncthreads();
}
