// norm_qkv_rope_append: the front of an attention layer for one row at position p: h = norm * x / sqrt(mean(x^2) + eps); queries
//         h . w[i] turned by p to q; keys turned by p and values to rows p of the caches
//
// shape   x, norm: [k]   w: [(n_heads + 2 * n_kv_heads) * head_dim, k], rows by stride   q: [n_heads * head_dim]
//         keys, values: [capacity, n_kv_heads * head_dim], rows by stride   cos, sin: [table_rows, head_dim / 2]
// launch  grid = rows of w / 4 * share / 8, rounded up; block = 256; shared = 98304 or less, k of f32; share in 1, 2, 4, 8
// needs   k a multiple of 8; head_dim a multiple of 4; x, norm and w aligned to 16 bytes in every row; outputs apart from the
//         rest; to overlap, w and norm must not be written by a kernel in flight
// how     a warp streams pairs of rows that turn together (rows.cuh), `share` warps a part of each; every block stages
//         the normed row, whose scale comes last. A position outside the tables gives NaN, one outside the caches leaves
//         them as they are. Sums in f32, in a fixed order
// cost    moves w; x, norm and tables come from the cache

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
// Many rows of weights against one vector: the products of a decoding step. Needs common.cuh and overlap.cuh.
//
// A warp streams 16-byte pieces of R rows, or `share` warps a part each, U pieces of every row in flight: eight loads of
// 16 bytes a thread for 16-bit weights, sixteen for f32, which measured best. The vector lies
// in shared memory: as it is if it has the weights' type, or 16-bit weights' pieces of f32 as two planes of 16 bytes.

const u32 PIECE = 16 / sizeof(weight);

__device__ inline void unpack_piece(uint4 v, f32 (&out)[8], bf16) { unpack(Eight<bf16>{v}, out); }
__device__ inline void unpack_piece(uint4 v, f32 (&out)[8], f16) { unpack(Eight<f16>{v}, out); }
template <u32 N> __device__ inline void unpack_piece(uint4 v, f32 (&out)[N], f32) {
    out[0] = __uint_as_float(v.x), out[1] = __uint_as_float(v.y);
    out[2] = __uint_as_float(v.z), out[3] = __uint_as_float(v.w);
}

// Where the 16 bytes from element i of the vector on lie, if they hold elements of type X.
template <class X> __device__ inline u32 place(u32 i, u32 pieces) {
    if (sizeof(X) == sizeof(weight)) return i / PIECE;
    return (i / 4 & 1) * pieces + i / 8;
}
template <class X> __device__ inline void vector_piece(const uint4* vector, u32 pieces, u32 p, f32 (&out)[PIECE]) {
    unpack_piece(vector[p], out, X());
    if constexpr (sizeof(X) > sizeof(weight)) {
        f32 high[4];
        unpack_piece(vector[pieces + p], high, X());
        for (u32 i = 0; i < 4; i++) out[4 + i] = high[i];
    }
}

// finish(group, sums) with sums[r] = w[row(group, r)] . vector for every group of R rows. Shared memory is filled with
// `pieces` pieces of type X by all threads of the block: before() while a predecessor may still run, then
// after(vector, group), where `group` is what the thread will finish, if it is below `groups`. Weights are on their way by
// then. block = 256, grid = groups * share / 8; shared = 16 bytes per piece and plane.
template <u32 R, u32 U, class X, class Rows, class Before, class After, class Finish>
__device__ inline void stream_rows(const weight* w, u64 stride, u64 groups, u32 pieces, u32 share, Rows row,
                                   Before before, After after, Finish finish) {
    extern __shared__ uint4 vector[];
    __shared__ __align__(16) f32 parts[8][R];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, per = (pieces + share - 1) / share, slots = 8 / share;
    u32 first = warp % share * per + lane, end = min(warp % share * per + per, pieces);
    u64 group = min((u64)blockIdx.x * slots + warp / share, groups - 1);
    u64 own = threadIdx.x < slots ? (u64)blockIdx.x * slots + threadIdx.x : groups;
    const weight* rows[R];
    uint4 held[U][R];
#pragma unroll
    for (u32 r = 0; r < R; r++) rows[r] = w + row(group, r) * stride;
#pragma unroll
    for (u32 u = 0; u < U; u++)
#pragma unroll
        for (u32 r = 0; r < R; r++)
            if (first + u * 32 < end) held[u][r] = weights16(rows[r] + (u64)(first + u * 32) * PIECE);
    release_next();
    before();
    await_previous();
    after(vector, own);
    __syncthreads();
    f32 sums[R] = {}, x[PIECE], v[PIECE];
    for (u32 p = first; p < end; p += 32 * U) {
#pragma unroll
        for (u32 u = 0; u < U; u++) {
            if (p + u * 32 >= end) break;
            vector_piece<X>(vector, pieces, p + u * 32, x);
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                unpack_piece(held[u][r], v, weight());
#pragma unroll
                for (u32 e = 0; e < PIECE; e++) sums[r] += v[e] * x[e];
            }
            u32 next = p + (U + u) * 32;
#pragma unroll
            for (u32 r = 0; r < R; r++)
                if (next < end) held[u][r] = weights16(rows[r] + (u64)next * PIECE);
        }
    }
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        sums[r] = lanes_fold(sums[r], 32, [](f32 a, f32 b) { return a + b; });
        if (lane == 0) parts[warp][r] = sums[r];
    }
    __syncthreads();
    if (own >= groups) return;
#pragma unroll
    for (u32 r = 0; r < R; r++) {
        sums[r] = 0.0f;
#pragma unroll
        for (u32 s = 0; s < 8; s++) sums[r] += s < share ? parts[threadIdx.x * share + s][r] : 0.0f;
    }
    finish(own, sums);
}

// Stages norm[c] * x[c] in f32; 1 / sqrt(mean(x^2) + eps) is multiplied with the sums. `weights` before the predecessor has
// finished, `row` after, `scale` once all threads have met. What each thread stages first waits in registers, so that no
// load of it is behind another.
struct Norm {
    static const u32 HELD = 2;
    const f32* x;
    const weight* norm;
    u32 k;
    f32 eps;
    Eight<weight> held[HELD];

    __device__ Norm(const f32* x, const weight* norm, u32 k, f32 eps) : x(x), norm(norm), k(k), eps(eps) {}
    __device__ u32 column(u32 step) const { return (threadIdx.x + step * 256) * 8; }
    __device__ void weights() {
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (column(i) < k) held[i] = *(const Eight<weight>*)(norm + column(i));
    }
    __device__ void stage(uint4* vector, u32 c, const Eight<weight>& gain, uint4 low, uint4 high, f32& sum) const {
        float4* to = (float4*)vector + place<f32>(c, k / PIECE);
        float4* next = (float4*)vector + place<f32>(c + 4, k / PIECE);
        f32 a[4], b[4], v[8];
        unpack_piece(low, a, f32()), unpack_piece(high, b, f32()), unpack(gain, v);
        for (u32 e = 0; e < 4; e++) sum += a[e] * a[e] + b[e] * b[e];
        *to = make_float4(v[0] * a[0], v[1] * a[1], v[2] * a[2], v[3] * a[3]);
        *next = make_float4(v[4] * b[0], v[5] * b[1], v[6] * b[2], v[7] * b[3]);
    }
    __device__ void row(uint4* vector, f32 (&squares)[8]) const {
        uint4 low[HELD], high[HELD];
        f32 sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (column(i) < k) low[i] = fresh16(x + column(i)), high[i] = fresh16(x + column(i) + 4);
#pragma unroll
        for (u32 i = 0; i < HELD; i++)
            if (column(i) < k) stage(vector, column(i), held[i], low[i], high[i], sum);
#pragma unroll 2
        for (u32 c = column(HELD); c < k; c += 256 * 8)
            stage(vector, c, *(const Eight<weight>*)(norm + c), fresh16(x + c), fresh16(x + c + 4), sum);
        sum = lanes_fold(sum, 32, [](f32 a, f32 b) { return a + b; });
        if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
    }
    __device__ f32 scale(const f32 (&squares)[8]) const {
        f32 sum = 0.0f;
        for (u32 warp = 0; warp < 8; warp++) sum += squares[warp];
        return 1.0f / sqrtf(sum / k + eps);
    }
};

const u32 PAIRS = 2, R = 2 * PAIRS, U = sizeof(weight);

// Neighbours in the first half of a head; their partners lie as far in the second.
struct Pairs {
    u32 head, column;

    __device__ Pairs(u64 group, u32 half) : head(group / (half / PAIRS)), column(group % (half / PAIRS) * PAIRS) {}
};

extern "C" __global__ void __launch_bounds__(256)
norm_qkv_rope_append(weight* q, weight* keys, u64 keys_stride, weight* values, u64 values_stride, const f32* x,
                     const weight* norm, const weight* w, u64 w_stride, const f32* cos, u64 cos_stride, const f32* sin,
                     u64 sin_stride, const u32* position, u64 table_rows, u64 capacity, u32 k, u32 n_heads,
                     u32 n_kv_heads, u32 head_dim, u32 share, f32 eps) {
    __shared__ f32 squares[8];
    Norm h(x, norm, k, eps);
    u32 half = head_dim / 2;
    u64 groups = (u64)(n_heads + 2 * n_kv_heads) * half / PAIRS, p = 0;
    f32 c[PAIRS], s[PAIRS] = {};
    for (u32 i = 0; i < PAIRS; i++) c[i] = 1.0f;
    stream_rows<R, U, f32>(w, w_stride, groups, k / PIECE, share,
        [=](u64 group, u32 r) {
            Pairs pairs(group, half);
            return (u64)pairs.head * head_dim + pairs.column + r / 2 + r % 2 * half;
        },
        [&] { h.weights(); },
        [&](uint4* vector, u64 group) {
            if (group < groups) p = fresh(position);
            h.row(vector, squares);
            Pairs pairs(group, half);
            if (group >= groups || pairs.head >= n_heads + n_kv_heads) return;
#pragma unroll
            for (u32 i = 0; i < PAIRS; i++) {
                c[i] = p < table_rows ? cos[p * cos_stride + pairs.column + i] : not_a_number();
                s[i] = p < table_rows ? sin[p * sin_stride + pairs.column + i] : not_a_number();
            }
        },
        [&](u64 group, const f32 (&sums)[R]) {
            Pairs pairs(group, half);
            bool is_query = pairs.head < n_heads, is_value = pairs.head >= n_heads + n_kv_heads;
            if (!is_query && p >= capacity) return;
            f32 scale = h.scale(squares);
            u32 kv_head = pairs.head - n_heads - (is_value ? n_kv_heads : 0);
            weight* to = is_query ? q + (u64)pairs.head * head_dim
                                  : (is_value ? values + p * values_stride : keys + p * keys_stride) + (u64)kv_head * head_dim;
#pragma unroll
            for (u32 i = 0; i < PAIRS; i++) {
                f32 low = sums[2 * i] * scale, high = sums[2 * i + 1] * scale;
                store(to + pairs.column + i, is_value ? low : low * c[i] - high * s[i]);
                store(to + pairs.column + i + half, is_value ? high : high * c[i] + low * s[i]);
            }
        });
}
