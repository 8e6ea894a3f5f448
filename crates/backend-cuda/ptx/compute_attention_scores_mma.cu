// compute_attention_scores_mma: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = ceil(keys / 8) * n_kv_heads / 8, or less, best as many as run at once: blocks stride; block = 256
// needs   head_dim a multiple of 8; q and k aligned to 16 bytes in every row; out apart from q and k; to overlap, k must
//         not be written by a kernel in flight
// how     a warp takes eight keys of one head, of which it keeps 128 columns, and, eight at a time, the queries that share
//         it; behind the last of them it asks for its next keys. Scores of two neighbouring keys leave as one word where that
//         is aligned. Sums in f32
// cost    moves keys * n_kv_heads * head_dim elements of k, and q and out

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

// Eight elements, or 0.
template <class E> __device__ inline uint4 piece(const E* p, bool inside) {
    return inside ? *(const uint4*)p : make_uint4(0, 0, 0, 0);
}

extern "C" __global__ void __launch_bounds__(256, 4)
compute_attention_scores_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                             u64 rows, u64 keys, u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    u32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    u64 items = (keys + 7) / 8 * n_kv_heads;
    bool paired = ((u64)out | out_stride * sizeof(scalar)) % 4 == 0;
    const uint4 none = make_uint4(0, 0, 0, 0);
    u64 item = (u64)blockIdx.x * 8 + threadIdx.x / 32, kv_head, tile;
    uint4 held[4];
    const weight* key;
    auto load = [&] {
        divide(item, n_kv_heads, tile, kv_head);
        key = k + min(tile * 8 + g, keys - 1) * k_stride + kv_head * head_dim + t * 8;
#pragma unroll
        for (u32 i = 0; i < 4; i++) held[i] = piece(key + i * 32, item < items && t * 8 + i * 32 < head_dim);
    };
    load();
    release_next(), await_previous();
#pragma unroll 1
    while (item < items) {
        u64 j = tile * 8 + 2 * t;
        u32 head_of = (u32)kv_head * group;
#pragma unroll 1
        for (u64 first = 0; first < rows * group; first += 8) {
            u64 row, head;
            divide(first + g, group, row, head);
            u32 of = head_of + (u32)head, reach = row < rows ? head_dim : 0;
            const scalar* from = q + row * q_stride + (u64)of * head_dim + t * 8;
            f32 sums[4] = {};
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                mma32(sums, piece(from + i * 32, t * 8 + i * 32 < reach), none, held[i], weight());
#pragma unroll 1
            for (u32 c = 128; c < head_dim; c += 32)
                mma32(sums, piece(from + c, t * 8 + c < reach), none, piece(key + c, t * 8 + c < head_dim), weight());
            if (first + 8 >= rows * group) item += (u64)gridDim.x * 8, load();
            u64 left = reach && j < keys ? keys - j : 0;
            scalar* to = out + (row * n_kv_heads * group + of) * out_stride + j;
            if (paired && left > 1) *(u32*)to = pair(sums[0] * scale, sums[1] * scale, scalar());
            if (left == 1 || !paired && left > 1) store(to, sums[0] * scale);
            if (!paired && left > 1) store(to + 1, sums[1] * scale);
        }
    }
}
