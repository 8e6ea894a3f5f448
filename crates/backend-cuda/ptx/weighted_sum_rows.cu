// weighted_sum_rows: out[i, h * cols + c] = sum_j weights[i * heads + h, j] * rows[j, h / group * cols + c]
//
// shape   weights: [m * heads, n]   rows: [n, n_kv_heads * cols]   out: [m, heads * cols]   heads = n_kv_heads * group
//         partials: 512 per split of every tile (weighted.cuh)   counters: one per tile, 0
// launch  grid = ceil(m * group / 8) * n_kv_heads * ceil(cols / 64) * splits, or less if splits = 1: blocks stride; block = 256
// needs   out apart from weights and rows
// how     a block takes 8 outputs by 64 columns by a split of the rows; eight lanes own eight columns each, 32 groups of
//         them divide the rows, four on their way at a time where outputs are few; all meet in a fixed order, splits in the
//         block that comes last. Sums in f32
// cost    moves n * n_kv_heads * cols elements of rows for up to eight outputs that share them, and weights and out

// Types, conversions, 16-byte access and reductions in a fixed order: what every kernel shares.
//
// SCALAR names the type of activations, WEIGHT that of weights and caches. Nothing of NVIDIA's headers is used, so
// that NVRTC needs no include path. Half-precision types are plain structs: all arithmetic is done in f32.

using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using u64 = unsigned long long;
using f32 = float;
using f64 = double;

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

typedef SCALAR scalar;
typedef WEIGHT weight;

__device__ inline f32 not_a_number() { return __uint_as_float(0x7fc00000u); }
__device__ inline f32 infinity() { return __uint_as_float(0x7f800000u); }

__device__ inline f32 to_f32(f32 v) { return v; }
__device__ inline f32 to_f32(bf16 v) { return __uint_as_float((u32)v.bits << 16); }
__device__ inline f32 to_f32(f16 v) {
    f32 wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
    return wide;
}

// Rounds to nearest, ties to even; a NaN stays one.
__device__ inline void store(f32* p, f32 v) { *p = v; }
__device__ inline void store(f16* p, f32 v) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(p->bits) : "f"(v)); }
__device__ inline void store(bf16* p, f32 v) {
    u32 bits = __float_as_uint(v);
    p->bits = v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Writes v, or adds it to what is there.
template <class E> __device__ inline void put(E* p, f32 v, u32 accumulate) { store(p, accumulate ? to_f32(*p) + v : v); }

// Whether each of `rows` rows begins at a multiple of 16 bytes.
template <class E> __device__ inline bool aligned(const E* p, u64 stride, u64 rows) {
    return ((u64)p | (rows > 1 ? stride * sizeof(E) : 0)) % 16 == 0;
}

// Eight elements as they lie in memory.
template <class E> struct Eight { uint4 words; };
template <> struct Eight<f32> { float4 low, high; };

__device__ inline void unpack(Eight<bf16> v, f32 (&out)[8]) {
    u32 words[4] = {v.words.x, v.words.y, v.words.z, v.words.w};
    for (u32 i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
__device__ inline void unpack(Eight<f16> v, f32 (&out)[8]) {
    u32 words[4] = {v.words.x, v.words.y, v.words.z, v.words.w};
    for (u32 i = 0; i < 8; i++) out[i] = to_f32(f16{(u16)(words[i / 2] >> i % 2 * 16)});
}
__device__ inline void unpack(Eight<f32> v, f32 (&out)[8]) {
    out[0] = v.low.x, out[1] = v.low.y, out[2] = v.low.z, out[3] = v.low.w;
    out[4] = v.high.x, out[5] = v.high.y, out[6] = v.high.z, out[7] = v.high.w;
}
template <class E> __device__ inline void load8_wide(const E* p, f32 (&out)[8]) { unpack(*(const Eight<E>*)p, out); }

// Elements p[0 .. min(left, 8)], the rest 0; `wide` promises that p is aligned to 16 bytes.
template <class E> __device__ inline void load8(const E* p, u64 left, bool wide, f32 (&out)[8]) {
    if (wide && left >= 8) return load8_wide(p, out);
#pragma unroll
    for (u32 i = 0; i < 8; i++) out[i] = i < left ? to_f32(p[i]) : 0.0f;
}

// The same elements as they lie in memory, to be unpacked later, so that other loads get under way before they arrive.
template <class E> __device__ inline Eight<E> hold8(const E* p, u64 left, bool wide) {
    if (wide && left >= 8) return *(const Eight<E>*)p;
    Eight<E> held = {};
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        if (i < left) ((E*)&held)[i] = p[i];
    return held;
}

// Two neighbours as one word.
template <class E> __device__ inline u32 pair(f32 low, f32 high, E) {
    E a, b;
    store(&a, low), store(&b, high);
    return a.bits | (u32)b.bits << 16;
}
#if __CUDA_ARCH__ >= 800
__device__ inline u32 pair(f32 low, f32 high, bf16) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
#endif

template <class E> __device__ inline void store8_wide(E* p, const f32 (&v)[8]) {
    u32 words[4];
    for (u32 i = 0; i < 4; i++) words[i] = pair(v[2 * i], v[2 * i + 1], E());
    *(uint4*)p = make_uint4(words[0], words[1], words[2], words[3]);
}
__device__ inline void store8_wide(f32* p, const f32 (&v)[8]) {
    ((float4*)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4*)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// Writes p[0 .. min(left, 8)].
template <class E> __device__ inline void store8(E* p, u64 left, bool wide, const f32 (&v)[8]) {
    if (wide && left >= 8) return store8_wide(p, v);
#pragma unroll
    for (u32 i = 0; i < 8; i++)
        if (i < left) store(p + i, v[i]);
}

// The least power of two of lanes, at most `most`, that holds `n` items of one each.
__device__ inline u32 lanes_for(u64 n, u32 most) {
    u32 lanes = 1;
    while (lanes < most && lanes < n) lanes *= 2;
    return lanes;
}

// a / b and a % b, by 32 bits where that suffices, which is several times as fast.
__device__ inline void divide(u64 a, u64 b, u64& quotient, u64& rest) {
    if ((a | b) >> 32) quotient = a / b, rest = a % b;
    else quotient = (u32)a / (u32)b, rest = (u32)a % (u32)b;
}

// v of `lanes` neighbouring lanes folded by a commutative f, in an order that depends on nothing else.
template <class V, class F> __device__ inline V lanes_fold(V v, u32 lanes, F f) {
    for (u32 step = lanes / 2; step > 0; step /= 2) v = f(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

// v of every thread of the block folded, for every thread.
template <class V, class F> __device__ inline V block_fold(V v, F f) {
    __shared__ V slots[32];
    v = lanes_fold(v, 32, f);
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = v;
    __syncthreads();
    V all = slots[0];
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) all = f(all, slots[warp]);
    return all;
}
__device__ inline f32 block_sum(f32 v) {
    return block_fold(v, [](f32 a, f32 b) { return a + b; });
}
// Blocks that share an output: each leaves its part in memory, and the last to arrive puts them together in a fixed order.
// Needs common.cuh.

// Whether this block is the last of `parts`, whose writes it then sees. The counter starts and ends at 0. Called by all
// threads of the block.
__device__ inline bool last_of(u32* counter, u32 parts) {
    __shared__ u32 arrived;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        arrived = atomicAdd(counter, 1) + 1;
        if (arrived == parts) *counter = 0;
    }
    __syncthreads();
    bool last = arrived == parts;
    if (last) __threadfence();
    return last;
}

// Sum of p[i * step] for i < n, in order, sixteen on their way at a time.
__device__ inline f32 sum_of(const f32* p, u64 step, u32 n) {
    f32 sum = 0.0f, held[16];
    for (u32 first = 0; first < n; first += 16) {
#pragma unroll
        for (u32 i = 0; i < 16; i++) held[i] = first + i < n ? __ldcg(p + (first + i) * step) : 0.0f;
#pragma unroll
        for (u32 i = 0; i < 16; i++) sum += held[i];
    }
    return sum;
}
// What both kernels of weighted_sum_rows share: how the work is divided, and how its parts meet. Needs common.cuh and
// merge.cuh.
//
// A piece of work is up to 8 outputs (rows of weights that share a head of `rows`) by 64 columns by a part of the rows.

const u32 OUTPUTS = 8, COLUMNS = 64;

struct Shape {
    u64 m, n;
    u32 n_kv_heads, group, cols, splits;

    __device__ u64 tiles() const { return (m * group + OUTPUTS - 1) / OUTPUTS * n_kv_heads * across(); }
    __device__ u32 across() const { return (cols + COLUMNS - 1) / COLUMNS; }
};

struct Work {
    u64 tile, first, last, output;  // rows first .. last; output: of those that share a head
    u32 kv_head, column, split;

    __device__ Work(u64 index, const Shape& s) {
        u64 each, part, at, line, row, rest;
        divide(s.n + s.splits - 1, s.splits, each, rest);
        each = (each + 31) / 32 * 32;
        divide(index, s.tiles(), part, tile);
        divide(tile, s.across(), line, at);
        split = part, column = at * COLUMNS;
        divide(line, s.n_kv_heads, row, at);
        kv_head = at, output = row * OUTPUTS;
        first = min(split * each, s.n), last = min(first + each, s.n);
    }
    // The row of weights of output i.
    __device__ u64 weights_row(const Shape& s, u32 i) const {
        u64 row, head;
        divide(output + i, s.group, row, head);
        return (row * s.n_kv_heads + kv_head) * s.group + head;
    }
    // Where in `out` it begins.
    __device__ u64 out_at(const Shape& s, u32 i, u64 stride) const {
        u64 row, head;
        divide(output + i, s.group, row, head);
        return row * stride + ((u64)kv_head * s.group + head) * s.cols + column;
    }
};

// Adds up what the eight warps found, and what the splits found, and writes the result.
__device__ inline void meet(f32 (*found)[OUTPUTS][COLUMNS], const Work& work, const Shape& s, scalar* out,
                            u64 out_stride, f32* partials, u32* counters) {
    __syncthreads();
    const u32 all = OUTPUTS * COLUMNS;
    u32 real = min(s.m * s.group - work.output, (u64)OUTPUTS) * COLUMNS;
    f32 sums[all / 256];
#pragma unroll
    for (u32 e = 0; e < all / 256; e++) {
        u32 at = threadIdx.x + e * 256;
        if (at >= real) continue;
        sums[e] = 0.0f;
#pragma unroll
        for (u32 warp = 0; warp < 8; warp++) sums[e] += (&found[warp][0][0])[at];
        if (s.splits > 1) partials[(work.tile * s.splits + work.split) * all + at] = sums[e];
    }
    bool mine = s.splits == 1 || last_of(counters + work.tile, s.splits);
#pragma unroll
    for (u32 e = 0; e < all / 256; e++) {
        u32 at = threadIdx.x + e * 256, i = at / COLUMNS, c = at % COLUMNS;
        if (!mine || at >= real) continue;
        if (s.splits > 1) sums[e] = sum_of(partials + work.tile * s.splits * all + at, all, s.splits);
        if (work.column + c < s.cols) store(out + work.out_at(s, i, out_stride) + c, sums[e]);
    }
    __syncthreads();
}

// Leaves a warp's sums for the first N outputs of a piece of work. A thread takes eight columns, U rows at a time; WIDE promises
// that they are aligned, and a multiple of eight.
template <u32 N, u32 U, bool WIDE>
__device__ inline void add_up(f32 (*found)[COLUMNS], const Work& work, const Shape& shape, const scalar* weights,
                              u64 weights_stride, const weight* rows, u64 rows_stride) {
    u32 column = work.column + threadIdx.x % 8 * 8, left = column < shape.cols ? shape.cols - column : 0;
    f32 sums[N][8] = {};
    const scalar* of[N];
#pragma unroll
    for (u32 i = 0; i < N; i++)
        of[i] = weights + work.weights_row(shape, work.output + i < shape.m * shape.group ? i : 0) * weights_stride;
    rows += (u64)work.kv_head * shape.cols + column;
#pragma unroll 1
    for (u64 first = work.first + threadIdx.x / 8; first < work.last; first += 32 * U) {
        Eight<weight> held[U];
        f32 factors[U][N];
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            u64 j = first + 32 * u;
            held[u] = hold8(rows + j * rows_stride, j < work.last ? WIDE ? left & ~7u : left : 0, WIDE);
#pragma unroll
            for (u32 i = 0; i < N; i++) factors[u][i] = j < work.last ? to_f32(of[i][j]) : 0.0f;
        }
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            f32 row[8];
            unpack(held[u], row);
#pragma unroll
            for (u32 i = 0; i < N; i++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i][e] += factors[u][i] * row[e];
        }
    }
#pragma unroll
    for (u32 i = 0; i < N; i++)
#pragma unroll
        for (u32 e = 0; e < 8; e++) {
            f32 sum = sums[i][e] + __shfl_xor_sync(0xffffffffu, sums[i][e], 8);
            sum += __shfl_xor_sync(0xffffffffu, sum, 16);
            if (threadIdx.x % 32 < 8) found[i][threadIdx.x % 8 * 8 + e] = sum;
        }
}

extern "C" __global__ void __launch_bounds__(256)
weighted_sum_rows(scalar* out, u64 out_stride, const scalar* weights, u64 weights_stride, const weight* rows,
                  u64 rows_stride, u64 m, u64 n, u32 n_kv_heads, u32 group, u32 cols, u32 splits, f32* partials,
                  u32* counters) {
    __shared__ f32 found[8][OUTPUTS][COLUMNS];
    Shape shape = {m, n, n_kv_heads, group, cols, splits};
    bool wide = cols % 8 == 0 && aligned(rows, rows_stride, n);
    for (u64 index = blockIdx.x; index < shape.tiles() * splits; index += gridDim.x) {
        Work work(index, shape);
        f32(*own)[COLUMNS] = found[threadIdx.x / 32];
        if (wide && m * group - work.output <= 4) add_up<4, 4, true>(own, work, shape, weights, weights_stride, rows, rows_stride);
        else if (wide) add_up<8, 1, true>(own, work, shape, weights, weights_stride, rows, rows_stride);
        else add_up<8, 1, false>(own, work, shape, weights, weights_stride, rows, rows_stride);
        meet(found, work, shape, out, out_stride, partials, counters);
    }
}
