// Attention of up to four query heads to keys they share, by groups of lanes that hold a key at a time, eight columns a
// lane. Needs common.cuh and online.cuh.

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

// Eight elements of a key or a value on their way.
template <bool WIDE> struct Piece {
    Eight<weight> raw;

    __device__ void load(const weight* p, u32 left) {
        raw = {};
        if (left > 0) raw = *(const Eight<weight>*)p;
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

// What the groups of a block found: of each the maximum, the sum of weights relative to it, their sums of values.
struct Found {
    f32 maxima[64][HEADS], sums[64][HEADS], shares[64][HEADS], tops[HEADS];
    float4 outs[HEADS][512];

    // The groups' sums of values in a column, or of weights, relative to the maximum of all.
    __device__ f32 total(const Lanes& lanes, u32 h, u32 column) const {
        f32 total = 0.0f;
#pragma unroll 8
        for (u32 g = 0; g < lanes.groups; g++) total += ((const f32*)outs[h])[g * lanes.count * 8 + column] * shares[g][h];
        return total;
    }
    __device__ f32 sum(const Lanes& lanes, u32 h) const {
        f32 sum = 0.0f;
#pragma unroll 8
        for (u32 g = 0; g < lanes.groups; g++) sum += sums[g][h] * shares[g][h];
        return sum;
    }
};

// Keys first .. last of a head.
struct Span {
    const weight* k;
    u64 k_stride;
    const weight* v;
    u64 v_stride, first, last;
};

// KEYS keys a group at a time. Called by all threads of the block.
template <bool WIDE, u32 KEYS> __device__ inline void
attend(const Span& span, const Lanes& lanes, const f32 (&q)[HEADS][8], f32 scale, Found& found) {
    Piece<WIDE> key[KEYS], value[KEYS];
    f32 max = -infinity(), sum = 0.0f, out[HEADS][8] = {};
    auto load = [&](Piece<WIDE> (&pieces)[KEYS], const weight* p, u64 stride, u64 base) {
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            u64 j = base + n * lanes.groups;
            pieces[n].load(p + j * stride + lanes.column, j < span.last ? lanes.left : 0);
        }
    };
    u64 j = span.first + lanes.group;
    load(key, span.k, span.k_stride, j), load(value, span.v, span.v_stride, j);
    // All groups go round equally often, because lanes of a warp meet in shuffles.
    for (u64 base = span.first; base < span.last; base += KEYS * lanes.groups, j += KEYS * lanes.groups) {
        f32 scores[KEYS], top = max;
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            f32 of_key[8], dots[HEADS] = {};
            key[n].get(of_key);
#pragma unroll
            for (u32 h = 0; h < HEADS; h++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) dots[h] += q[h][e] * of_key[e];
            scores[n] = lanes.sum(dots) * scale;
            if (j + n * lanes.groups < span.last) top = fmaxf(top, scores[n]);
        }
        load(key, span.k, span.k_stride, j + KEYS * lanes.groups);
        f32 before = relative(max, top);
        max = top, sum *= before;
#pragma unroll
        for (u32 n = 0; n < KEYS; n++) {
            scores[n] = j + n * lanes.groups < span.last ? relative(scores[n], max) : 0.0f;
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
        load(value, span.v, span.v_stride, j + KEYS * lanes.groups);
    }
    if (threadIdx.x % lanes.share == 0) found.maxima[lanes.group][lanes.head] = max, found.sums[lanes.group][lanes.head] = sum;
#pragma unroll
    for (u32 h = 0; h < HEADS; h++)
        for (u32 half = 0; half < 2; half++)
            found.outs[h][threadIdx.x * 2 + half] =
                make_float4(out[h][half * 4], out[h][half * 4 + 1], out[h][half * 4 + 2], out[h][half * 4 + 3]);
    __syncthreads();
    if (threadIdx.x < lanes.groups * HEADS) {
        u32 g = threadIdx.x / HEADS, h = threadIdx.x % HEADS;
        f32 top = -infinity();
#pragma unroll 8
        for (u32 i = 0; i < lanes.groups; i++) top = fmaxf(top, found.maxima[i][h]);
        found.shares[g][h] = relative(found.maxima[g][h], top);
        if (g == 0) found.tops[h] = top;
    }
    __syncthreads();
}
