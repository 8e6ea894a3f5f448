// compute_attention_scores: out[r * heads + h, j] = scale * sum_c q[r, h * head_dim + c] * k[j, h / group * head_dim + c]
//
// shape   q: [rows, heads * head_dim]   k: [keys, n_kv_heads * head_dim]   out: [rows * heads, keys]
//         heads = n_kv_heads * group   rows by stride
// launch  grid = best as many blocks as run at once, or less: warps stride over the keys of a head; block = 256
// needs   out apart from q and k
// how     warps are dealt out to the heads of keys; lanes of a warp share keys, and keep the queries in registers where heads
//         are short and aligned (short_dots.cuh), read them with the keys elsewhere (dots.cuh); sums in f32
// cost    moves keys * n_kv_heads * head_dim elements of k for up to eight queries that share a head (four where it is long or unaligned),
//         and q and out

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
// Dot products of rows: what matmul_few and compute_attention_scores share. Needs common.cuh.

// A warp, and how many share the work.
struct Turn {
    u64 warp, of;
};

// finish(i, j, sum_c x[i, c] * w[j, c]) for i < min(m, M) and every j < n, spread over warps. `lanes` lanes of a
// warp share R rows of w: they sum eight columns each per step (one, unless `wide`), then meet in a fixed order.
template <u32 M, u32 R, class F>
__device__ inline void dots_of(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k,
                               bool wide, Turn turn, F finish) {
    u32 lanes = lanes_for((k + 7) / 8, 32), lane = threadIdx.x % lanes;
    u64 step = turn.of * (32 / lanes) * R, warp_first = turn.warp * (32 / lanes) * R;
    // A warp goes round as long as any of its rows is left, because its lanes meet in shuffles.
    for (; warp_first < n; warp_first += step) {
        u64 j = warp_first + threadIdx.x % 32 / lanes * R;
        f32 sums[M][R] = {}, a[8], b[R][8];
        const weight* rows[R];
        for (u32 r = 0; r < R; r++) rows[r] = w + min(j + r, n - 1) * w_stride;
        for (u64 c = lane * 8; wide && c < k; c += lanes * 8) {
#pragma unroll
            for (u32 r = 0; r < R; r++) load8_wide(rows[r] + c, b[r]);
#pragma unroll
            for (u32 i = 0; i < M; i++) {
                load8_wide(x + min((u64)i, m - 1) * x_stride + c, a);
#pragma unroll
                for (u32 r = 0; r < R; r++)
#pragma unroll
                    for (u32 e = 0; e < 8; e++) sums[i][r] += a[e] * b[r][e];
            }
        }
        // A row of x alone leaves registers for more columns on their way at a time.
        const u32 U = M == 1 ? 8 : 1;
        for (u64 first = lane; !wide && first < k; first += lanes * U) {
            weight held[U][R];
#pragma unroll
            for (u32 u = 0; u < U; u++)
#pragma unroll
                for (u32 r = 0; r < R; r++) held[u][r] = first + u * lanes < k ? rows[r][first + u * lanes] : weight();
#pragma unroll
            for (u32 u = 0; u < U; u++)
#pragma unroll
                for (u32 i = 0; i < M; i++) {
                    u64 c = first + u * lanes;
                    f32 factor = c < k ? to_f32(x[min((u64)i, m - 1) * x_stride + c]) : 0.0f;
#pragma unroll
                    for (u32 r = 0; r < R; r++) sums[i][r] += factor * to_f32(held[u][r]);
                }
        }
#pragma unroll
        for (u32 i = 0; i < M; i++)
#pragma unroll
            for (u32 r = 0; r < R; r++) {
                f32 sum = lanes_fold(sums[i][r], lanes, [](f32 p, f32 q) { return p + q; });
                if (lane == 0 && i < m && j + r < n) finish(i, j + r, sum);
            }
    }
}

// The same for any number of rows of x, up to MOST at a time: 8, or 4 with fewer registers.
template <u32 MOST, class F>
__device__ inline void dots(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u64 k, Turn turn,
                            F finish) {
    bool wide = k % 8 == 0 && aligned(x, x_stride, m) && aligned(w, w_stride, n);
    for (u64 first = 0; first < m; first += MOST) {
        const scalar* from = x + first * x_stride;
        u64 left = m - first;
        auto shifted = [=](u64 i, u64 j, f32 sum) { finish(first + i, j, sum); };
        if (left == 1) dots_of<1, 4>(from, x_stride, left, w, w_stride, n, k, wide, turn, shifted);
        else if (left <= 4 || MOST == 4) dots_of<4, MOST == 4 ? 1 : 2>(from, x_stride, left, w, w_stride, n, k, wide, turn, shifted);
        else dots_of<8, 1>(from, x_stride, left, w, w_stride, n, k, wide, turn, shifted);
    }
}
// Dot products of rows of at most 256 columns, a multiple of 8, aligned to 16 bytes. Needs common.cuh and dots.cuh.

// What a lane has of sums over lanes: values first .. first + count of them, if it is the lane to write them.
struct Dealt {
    u32 first, count;
    bool owner;
};

// Sums of N values over `lanes` neighbouring lanes, a power of two each. Each step leaves a lane one half of the values, until
// it has one or all lanes are met; value `first` + e is then v[e].
template <u32 N> __device__ inline Dealt deal_sums(f32 (&v)[N], u32 lanes) {
    Dealt dealt = {0, N, true};
#pragma unroll
    for (u32 half = N / 2; half > 0; half /= 2) {
        lanes /= 2;
        if (lanes == 0) continue;
        bool upper = threadIdx.x & lanes;
#pragma unroll
        for (u32 e = 0; e < half; e++) {
            f32 low = v[e], high = v[e + half];
            v[e] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, lanes);
        }
        dealt.first += upper ? half : 0, dealt.count = half;
    }
    if (lanes > 1) {
        v[0] = lanes_fold(v[0], lanes, [](f32 a, f32 b) { return a + b; });
        dealt.owner = threadIdx.x % lanes == 0;
    }
    return dealt;
}

// finish(i, j, sum_c x[i, c] * w[j, c]) for i < min(m, M) and every j < n, spread over warps as in dots.cuh. A lane has no more
// than eight columns: those of x stay with it while rows of w pass, R at a time, the next on their way.
template <u32 M, u32 R, class F>
__device__ inline void short_dots_of(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u32 k,
                                     Turn turn, F finish) {
    u32 lanes = lanes_for(k / 8, 32), column = threadIdx.x % lanes * 8;
    u64 step = turn.of * (32 / lanes) * R, warp_first = turn.warp * (32 / lanes) * R;
    w += column;
    f32 a[M][8];
#pragma unroll
    for (u32 i = 0; i < M; i++) load8(x + i * x_stride + column, column < k && i < m ? 8 : 0, true, a[i]);
    Eight<weight> held[R];
    auto load = [&](u64 j) {
#pragma unroll
        for (u32 r = 0; r < R; r++) held[r] = hold8(w + (j + r) * w_stride, column < k && j + r < n ? 8 : 0, true);
    };
    u64 j = warp_first + threadIdx.x % 32 / lanes * R;
    load(j);
#pragma unroll 1
    for (; warp_first < n; warp_first += step, j += step) {
        f32 sums[M * R] = {}, b[8];
#pragma unroll
        for (u32 r = 0; r < R; r++) {
            unpack(held[r], b);
#pragma unroll
            for (u32 i = 0; i < M; i++)
#pragma unroll
                for (u32 e = 0; e < 8; e++) sums[i * R + r] += a[i][e] * b[e];
        }
        load(j + step);
        Dealt dealt = deal_sums(sums, lanes);
#pragma unroll
        for (u32 e = 0; e < M * R; e++) {
            u32 i = (dealt.first + e) / R, r = (dealt.first + e) % R;
            if (e < dealt.count && dealt.owner && i < m && j + r < n) finish(i, j + r, sums[e]);
        }
    }
}

// The same for any number of rows of x, up to eight at a time.
template <class F>
__device__ inline void short_dots(const scalar* x, u64 x_stride, u64 m, const weight* w, u64 w_stride, u64 n, u32 k,
                                  Turn turn, F finish) {
    for (u64 first = 0; first < m; first += 8) {
        const scalar* from = x + first * x_stride;
        u64 left = m - first;
        auto shifted = [=](u64 i, u64 j, f32 sum) { finish(first + i, j, sum); };
        if (left == 1) short_dots_of<1, 4>(from, x_stride, left, w, w_stride, n, k, turn, shifted);
        else if (left <= 4) short_dots_of<4, 2>(from, x_stride, left, w, w_stride, n, k, turn, shifted);
        else short_dots_of<8, 1>(from, x_stride, left, w, w_stride, n, k, turn, shifted);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
compute_attention_scores(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                         u64 rows, u64 keys, u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    // Queries that share keys and lie one step apart: all rows of a single head, or one row's group.
    bool single = n_kv_heads == 1 && group == 1;
    u64 count = single ? rows : group, step = single ? q_stride : head_dim;
    bool is_short = head_dim <= 256 && head_dim % 8 == 0 && aligned(q, q_stride, rows) && aligned(k, k_stride, keys);
    // As many warps for each head of keys; with fewer warps, one takes several heads.
    u64 warps = (u64)gridDim.x * 8, at_once = min(warps, (u64)n_kv_heads), of_head, first_head;
    divide((u64)blockIdx.x * 8 + threadIdx.x / 32, at_once, of_head, first_head);
    Turn turn = {of_head, warps / at_once};
    if (turn.warp >= turn.of) return;
    for (u64 row = 0; row < rows; row += single ? rows : 1)
        for (u64 kv_head = first_head; kv_head < n_kv_heads; kv_head += at_once) {
            const scalar* from = q + row * q_stride + kv_head * group * head_dim;
            scalar* to = out + (row * n_kv_heads + kv_head) * group * out_stride;
            const weight* keys_of = k + kv_head * head_dim;
            auto finish = [=](u64 i, u64 j, f32 sum) { store(to + i * out_stride + j, sum * scale); };
            if (is_short) short_dots(from, step, count, keys_of, k_stride, keys, head_dim, turn, finish);
            else dots<4>(from, step, count, keys_of, k_stride, keys, head_dim, turn, finish);
        }
}
