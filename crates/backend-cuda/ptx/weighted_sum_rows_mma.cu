// weighted_sum_rows_mma: out[i, h * cols + c] = sum_j weights[i * heads + h, j] * rows[j, h / group * cols + c]
//
// shape   weights: [m * heads, n]   rows: [n, n_kv_heads * cols]   out: [m, heads * cols]   heads = n_kv_heads * group
//         partials: 512 per split of every tile (weighted.cuh)   counters: one per tile, 0
// launch  grid = ceil(m * group / 8) * n_kv_heads * ceil(cols / 64) * splits, or less if splits = 1: blocks stride; block = 256
// needs   cols a multiple of 8; rows aligned to 16 bytes in every row; out apart from weights and rows; to overlap, rows
//         must not be written by a kernel in flight
// how     a block takes 8 outputs by 64 columns by a split of the rows; each of its warps takes 32 rows at a time, past L1,
//         as the first operand of its products: 16 columns of them fill it, where outputs would leave half of it empty.
//         All meet in a fixed order. Sums in f32
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
// Overlap with the kernel before (programmatic dependent launch, from compute capability 9.0 on), and loads that go with it.
// Needs common.cuh.
//
// A kernel that is launched to overlap may run before its predecessor has finished: until `await_previous` it must touch
// only what no kernel in flight writes, and afterwards read through `fresh` what L1 may hold an older copy of.

#if __CUDA_ARCH__ >= 900
__device__ inline void await_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ inline void release_next() { asm volatile("griddepcontrol.launch_dependents;"); }
#else
__device__ inline void await_previous() {}
__device__ inline void release_next() {}
#endif

// 16 bytes past L1.
__device__ inline uint4 fresh16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ inline u32 fresh(const u32* p) {
    u32 v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ inline f32 fresh(const f32* p) { return __uint_as_float(fresh((const u32*)p)); }
template <class E> __device__ inline E fresh(const E* p) {
    E v;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v.bits) : "l"(p));
    return v;
}

// 16 bytes that are read once.
__device__ inline uint4 once16(const void* p) {
    uint4 v;
    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// 16 bytes that are read once, and that no kernel in flight writes.
__device__ inline uint4 weights16(const void* p) {
#if __CUDA_ARCH__ >= 700
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#else
    return once16(p);
#endif
}

// 16 bytes past L1 to shared memory, where `fetched` has waited for those of this thread.
__device__ inline void fetch16(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    *(uint4*)to = fresh16(from);
#endif
}
__device__ inline void fetched() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
// Products of 16-bit matrices on tensor cores, from compute capability 8.0 on, with operands as they come from memory 16
// bytes at a time. Needs common.cuh.

#if __CUDA_ARCH__ >= 800

// c += a . b for a [16, 16] and b [16, 8]. Lane 4 g + t holds of c rows g and g + 8, columns 2 t and 2 t + 1; of a, in
// this order, row g, row g + 8 (columns 2 t and 2 t + 1), row g, row g + 8 (columns 2 t + 8, + 9); of b column g, rows as a.
__device__ inline void mma(f32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma(f32 (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c += a . b over 32 terms, eight of each lane's: rows g of a (and g + 8) and column g of b, as 16 bytes from term 8 t on.
// The order of the terms is the same in all, so that it does not matter.
template <class E> __device__ inline void mma32(f32 (&c)[4], uint4 a, uint4 a8, uint4 b, E) {
    mma(c, a.x, a8.x, a.y, a8.y, b.x, b.y, E());
    mma(c, a.z, a8.z, a.w, a8.w, b.z, b.w, E());
}

// Element j of two rows, 16 bytes of each, as a word: what b wants of two rows in the same column.
__device__ inline u32 column(uint4 row, uint4 next, u32 j) {
    u32 a[4] = {row.x, row.y, row.z, row.w}, b[4] = {next.x, next.y, next.z, next.w};
    return __byte_perm(a[j / 2], b[j / 2], j % 2 ? 0x7632 : 0x5410);
}

#endif
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

const u32 ROWS = 32;  // that a warp takes at a time

// Eight columns of the rows, of `left`, that lane 4 g + t multiplies: 2 t and 2 t + 1 of every eight.
__device__ inline void load_rows(const weight* from, u64 stride, u32 left, uint4 (&held)[4][2]) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        u32 row = i / 2 * 8 + i % 2;
        held[i / 2][i % 2] = row < left ? once16(from + row * stride) : make_uint4(0, 0, 0, 0);
    }
}
// Their weights; `paired` promises that those of two neighbours are aligned to 4 bytes.
__device__ inline void load_factors(const scalar* from, u32 left, bool paired, u32 (&held)[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (paired && i * 8 + 1 < left) {
            held[i] = fresh((const u32*)(from + i * 8));
            continue;
        }
        u32 low = i * 8 < left ? fresh(from + i * 8).bits : 0;
        u32 high = i * 8 + 1 < left ? fresh(from + i * 8 + 1).bits : 0;
        held[i] = low | high << 16;
    }
}

// sums[e] += rows . weights: of lane 4 g + t for columns 8 g + 2 e (twice) and 8 g + 2 e + 1, outputs 2 t and 2 t + 1.
__device__ inline void multiply(f32 (&sums)[4][4], const uint4 (&rows)[4][2], const u32 (&factors)[4]) {
#pragma unroll
    for (u32 i = 0; i < 4; i += 2)
#pragma unroll
        for (u32 e = 0; e < 4; e++)
            mma(sums[e], column(rows[i][0], rows[i][1], 2 * e), column(rows[i][0], rows[i][1], 2 * e + 1),
                column(rows[i + 1][0], rows[i + 1][1], 2 * e), column(rows[i + 1][0], rows[i + 1][1], 2 * e + 1),
                factors[i], factors[i + 1], weight());
}

extern "C" __global__ void __launch_bounds__(256)
weighted_sum_rows_mma(scalar* out, u64 out_stride, const scalar* weights, u64 weights_stride, const weight* rows,
                      u64 rows_stride, u64 m, u64 n, u32 n_kv_heads, u32 group, u32 cols, u32 splits, f32* partials,
                      u32* counters) {
    __shared__ f32 found[8][OUTPUTS][COLUMNS];
    Shape shape = {m, n, n_kv_heads, group, cols, splits};
    u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    bool waited = false, paired = ((u64)weights | weights_stride * 2) % 4 == 0;
    for (u64 index = blockIdx.x; index < shape.tiles() * splits; index += gridDim.x) {
        Work work(index, shape);
        bool real = work.output + g < m * group;
        u64 first = work.first + warp * ROWS + 2 * t;
        u32 left = work.last - min(first, work.last), column_left = work.column + g * 8 < cols ? left : 0;
        const weight* from = rows + first * rows_stride + (u64)work.kv_head * cols + work.column + g * 8;
        const scalar* factors = weights + work.weights_row(shape, real ? g : 0) * weights_stride + first;
        uint4 held[4][2];
        u32 a[4];
        load_rows(from, rows_stride, column_left, held);
        if (!waited) release_next(), await_previous(), waited = true;
        load_factors(factors, real ? left : 0, paired, a);
        f32 sums[4][4] = {};
        for (u32 step = 8 * ROWS;; from += step * rows_stride, factors += step) {
            multiply(sums, held, a);
            left -= min(left, step), column_left -= min(column_left, step);
            if (!__any_sync(0xffffffffu, left > 0)) break;
            load_rows(from + step * rows_stride, rows_stride, column_left, held);
            load_factors(factors + step, real ? left : 0, paired, a);
        }
#pragma unroll
        for (u32 e = 0; e < 4; e++)
#pragma unroll
            for (u32 i = 0; i < 2; i++)
                *(float2*)&found[warp][2 * t + i][8 * g + 2 * e] = make_float2(sums[e][i], sums[e][2 + i]);
        meet(found, work, shape, out, out_stride, partials, counters);
    }
}
