// attention_prefill_mma: out[r, h] = softmax(scale * q[r, h] . k[j, g])_j . v[j, g], j in max(0, end - window) .. end,
//                        end = min(positions[r], capacity - 1) + 1, g = h / group: for many rows
//
// shape   q, out: [rows, n_kv_heads * group * head_dim]   k, v: [capacity, n_kv_heads * head_dim]   positions: [rows]
// launch  grid = n_kv_heads * ceil(rows * group / tile), tile = 64 if head_dim > 128, else 128; block = 128; shared = 98304,
//         of which it needs (tile + 128) * 2 * head_dim, head_dim rounded up to 64, 128 or 256
// needs   head_dim <= 256, a multiple of 8; every row of each operand aligned to 16 bytes; capacity, rows * group < 2^32;
//         out apart from the rest
// how     a block takes a tile of queries that share keys, its warps 16 or 32 of them: products by mma.sync of 64 keys at a
//         time, a running maximum, weights rounded to 16 bits. Values are on their way to shared memory while scores are
//         computed, keys while values are summed. Tiles with most keys come first. Keys that no query sees are never read.
// cost    4 * head_dim operations per query and key; reads the keys and values of a tile once, from the cache at best

// Products of fragments in registers by the tensor cores of any card that has them (mma.sync).

// What products on tensor cores share: copies into shared memory, and the way of sums to the output.

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

// The name of the element type, as instructions spell it.
#define SPELLED(type) #type
#define SPELL(type) SPELLED(type)

extern __shared__ __align__(1024) unsigned char dynamic[];

__device__ inline u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Copies 16 bytes without waiting, or clears them.
__device__ inline void copy16(u32 to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void copies_end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 PENDING> __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Where 16-byte piece `piece` of `row` lies when a row has PIECES pieces: eight rows at one piece meet no bank twice.
template <u32 PIECES> __device__ inline u32 swizzled(u32 row, u32 piece) {
    return row * PIECES * 16 + (piece ^ row * PIECES / 8 % PIECES) * 16;
}

// Copies `ROWS` rows of `DEPTH` columns: element (r, c) of `from`, 0 from `rows` rows or `columns` columns on.
template <u32 ROWS, u32 DEPTH, u32 THREADS, class E>
__device__ inline void copy_rows(u32 to, const E* from, u64 stride, u64 rows, u64 columns) {
    const u32 PIECES = DEPTH / 8, AT_ONCE = THREADS / PIECES;
    u32 piece = threadIdx.x % PIECES, row = threadIdx.x / PIECES;
    const E* p = from + row * stride + piece * 8;
    u32 seen = piece * 8 < columns ? (u32)min(rows, (u64)ROWS) : 0;
#pragma unroll
    for (u32 i = 0; i < ROWS / AT_ONCE; i++)
        copy16(to + swizzled<PIECES>(row + i * AT_ONCE, piece), p + i * AT_ONCE * stride, row + i * AT_ONCE < seen);
}

// The same of DEPTH rows of COLS columns, as panels of 64 columns.
template <u32 COLS, u32 DEPTH, u32 THREADS, class E>
__device__ inline void copy_panels(u32 to, const E* from, u64 stride, u64 rows, u64 columns) {
#pragma unroll
    for (u32 panel = 0; panel < COLS / 64; panel++) {
        u64 left = columns > panel * 64 ? columns - panel * 64 : 0;
        copy_rows<DEPTH, 64, THREADS>(to + panel * DEPTH * 128, from + panel * 64, stride, rows, left);
    }
}

// x: [m, k] and w: [n, k], or [k, n] if PLAIN.
struct Operands {
    const scalar* x;
    const weight* w;
    u64 x_stride, w_stride, m, n, k;
};

// Copies step `step` of the tile at (i, j): the rows of x, then those of w, or panels of its columns.
template <u32 PLAIN, u32 ROWS, u32 COLS, u32 DEPTH, u32 THREADS>
__device__ inline void copy_step(u32 to, const Operands& of, u64 i, u64 j, u64 step) {
    const u32 RIGHT = ROWS * DEPTH * 2;
    u64 c = step * DEPTH;
    copy_rows<ROWS, DEPTH, THREADS>(to, of.x + i * of.x_stride + c, of.x_stride, of.m - i, of.k - c);
    const weight* w = of.w + (PLAIN ? c * of.w_stride + j : j * of.w_stride + c);
    if (PLAIN) copy_panels<COLS, DEPTH, THREADS>(to + RIGHT, w, of.w_stride, of.k - c, of.n - j);
    else copy_rows<COLS, DEPTH, THREADS>(to + RIGHT, w, of.w_stride, of.n - j, of.k - c);
}

// Puts 16 rows by 8 * WIDE columns of a warp's sums in rows of PITCH. mma.sync and wgmma leave them alike: sums[f][e] is row
// lane / 4 + e / 2 * 8, column 8 * f + lane % 4 * 2 + e % 2.
template <u32 PITCH, u32 WIDE> __device__ inline void stage(f32* to, const f32 (&sums)[WIDE][4]) {
    u32 lane = threadIdx.x % 32;
    to += lane / 4 * PITCH + lane % 4 * 2;
#pragma unroll
    for (u32 f = 0; f < WIDE; f++) {
        *(float2*)(to + f * 8) = make_float2(sums[f][0], sums[f][1]);
        *(float2*)(to + 8 * PITCH + f * 8) = make_float2(sums[f][2], sums[f][3]);
    }
}

// The operand that a product goes to: [m, n] of f32 if `wide`, else of the activations' type.
struct Output {
    scalar* to;
    u64 stride, m, n;
    bool accumulate, wide;
};

template <u32 COLS, class E, class F>
__device__ inline void write_as(E* to, const Output& out, u64 i, u64 j, u32 rows, u32 part, u32 parts, F add) {
    u32 items = min((u64)rows, out.m - min(i, out.m)) * (COLS / 8);
    u64 columns = out.n - j;
    bool even = aligned(to, out.stride, out.m);
    to += i * out.stride + j;
    for (u32 item = items * part / parts + threadIdx.x; item < items * (part + 1) / parts; item += blockDim.x) {
        u32 row = item / (COLS / 8), column = item % (COLS / 8) * 8;
        if (column >= columns) continue;
        E* at = to + row * out.stride + column;
        f32 sum[8] = {};
        if (out.accumulate) load8(at, columns - column, even, sum);
        add(sum, row, column);
        store8(at, columns - column, even, sum);
    }
}

// Writes `rows` rows of COLS columns at (i, j), as far as `out` has them; of those, part `part` of `parts`.
// add(sum, row, column) adds eight sums to `sum`, those from (row, column) of the tile on.
template <u32 COLS, class F>
__device__ inline void write_rows(const Output& out, u64 i, u64 j, u32 rows, u32 part, u32 parts, F add) {
    if (out.wide) write_as<COLS>((f32*)out.to, out, i, j, rows, part, parts, add);
    else write_as<COLS>(out.to, out, i, j, rows, part, parts, add);
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

// Four matrices of 8 x 8 from the rows that lanes 0..8, 8..16, .. point at; lane l gets elements l % 4 * 2 + 0, 1 of row l / 4.
__device__ inline void load_fragments(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}
// The same of their transposes.
__device__ inline void load_fragments_turned(u32 (&to)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}
// sums += a * b, of 16 x 16 and 16 x 8.
__device__ inline void multiply(f32 (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    mma(sums, a[0], a[1], a[2], a[3], b0, b1, scalar());
}
// From scores to weights to the output, for 16 queries of a warp at a time.

// Attention of many rows: what the kernels for tensor cores share. A query is one row's head; those that share keys are
// numbered row by row, so that a block's have nearly the same keys.


// The thread's index, read anew: so that no register holds it, and what follows from it, all along.
__device__ inline u32 thread_anew() {
    u32 index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// The operands, and the head of keys and values that is attended to, with as many queries.
struct Prompt {
    scalar* out;
    const scalar* q;
    const weight *k, *v;
    const u32* positions;
    u64 out_stride, q_stride, k_stride, v_stride, capacity, window;
    u32 rows, group, head_dim, kv_head;
    f32 scale;

    // Computed anew each time: registers are for sums.
    __device__ u32 queries() const {
        u32 n;
        asm volatile("mul.lo.u32 %0, %1, %2;" : "=r"(n) : "r"(rows), "r"(group));
        return n;
    }
    __device__ u64 q_at(u32 query) const { return query / group * q_stride + (kv_head * group + query % group) * head_dim; }
    __device__ u64 out_at(u32 query) const { return query / group * out_stride + (kv_head * group + query % group) * head_dim; }
};

// Keys begin .. end.
struct Seen {
    u32 begin, end;
};

__device__ inline Seen seen_by(const Prompt& of, u32 row) {
    u64 end = min((u64)of.positions[row], of.capacity - 1) + 1;
    return {(u32)(end > of.window ? end - of.window : 0), (u32)end};
}

// Keys that any of `n` queries sees, and keys that all of them see.
struct Bounds {
    Seen any, all;
};

__device__ inline Bounds bounds(const Prompt& of, u32 first, u32 n) {
    Bounds b = {{0xffffffffu, 0}, {0, 0xffffffffu}};
    u32 last = min(of.queries() - first, n) - 1 + first;
    for (u32 row = first / of.group + threadIdx.x % 32; row <= last / of.group; row += 32) {
        Seen s = seen_by(of, row);
        b.any.begin = min(b.any.begin, s.begin), b.all.begin = max(b.all.begin, s.begin);
        b.any.end = max(b.any.end, s.end), b.all.end = min(b.all.end, s.end);
    }
    const u32 LANES = 0xffffffffu;
    return {{__reduce_min_sync(LANES, b.any.begin), __reduce_max_sync(LANES, b.any.end)},
            {__reduce_max_sync(LANES, b.all.begin), __reduce_min_sync(LANES, b.all.end)}};
}

// f(first query, turn) for each tile of ROWS queries of this block. Tiles with most keys come first, and turns go forth and
// back, so that all blocks get about as many keys.
template <u32 ROWS, class F> __device__ inline void for_each_tile(Prompt& of, u32 n_kv_heads, F f) {
    u32 tiles = (of.queries() + ROWS - 1) / ROWS * n_kv_heads;
    for (u32 turn = 0;; turn++) {
        u32 tile = turn * gridDim.x + (turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        if (tile >= tiles) return;
        of.kv_head = tile % n_kv_heads;
        f((tiles - 1 - tile) / n_kv_heads * ROWS, turn);
    }
}

// Copies ROWS queries as panels of 64 columns, with 0 beyond the last column; repeats the last query.
template <u32 DIM, u32 ROWS, u32 THREADS> __device__ inline void copy_queries(u32 to, const Prompt& of, u32 first) {
    u32 piece = threadIdx.x % 8;
    for (u32 row = threadIdx.x / 8; row < ROWS; row += THREADS / 8) {
        u32 query = min(first + row, of.queries() - 1);
        const scalar* from = of.q + of.q_at(query) + piece * 8;
#pragma unroll
        for (u32 panel = 0; panel < DIM / 64; panel++)
            copy16(to + panel * ROWS * 128 + swizzled<8>(row, piece), from + panel * 64, panel * 64 + piece * 8 < of.head_dim);
    }
}

// exp(x - max) that counts x = max = -inf as 1, which a larger maximum scales to 0 later.
__device__ inline f32 relative(f32 x, f32 max) { return x == max ? 1.0f : expf(x - max); }

// One query, a key at a time: by a warp, for what the fast way gives up.
__device__ inline void attend_slowly(const Prompt& of, u32 query) {
    u32 column = thread_anew() % 32 * 8, left = of.head_dim - min(column, of.head_dim);
    u64 head = (u64)of.kv_head * of.head_dim + column;
    f32 q[8], key[8], value[8], out[8] = {}, max = -infinity(), sum = 0.0f;
    load8(of.q + of.q_at(query) + column, left, true, q);
    Seen seen = seen_by(of, query / of.group);
#pragma unroll 1
    for (u32 j = seen.begin; j < seen.end; j++) {
        load8(of.k + j * of.k_stride + head, left, true, key);
        load8(of.v + j * of.v_stride + head, left, true, value);
        f32 dot = 0.0f;
        for (u32 e = 0; e < 8; e++) dot += q[e] * key[e];
        dot = lanes_fold(dot, 32, [](f32 a, f32 b) { return a + b; }) * of.scale;
        f32 top = fmaxf(max, dot), before = relative(max, top), now = relative(dot, top);
        max = top, sum = sum * before + now;
        for (u32 e = 0; e < 8; e++) out[e] = out[e] * before + now * value[e];
    }
    // Scores with +inf, or -inf alone, have no softmax.
    for (u32 e = 0; e < 8; e++) out[e] = fabsf(max) < infinity() ? out[e] / sum : not_a_number();
    store8(of.out + of.out_at(query) + column, left, true, out);
}

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

const u32 KEYS = 64, THREADS = 128;

// Scores of this warp's queries.
template <u32 DIM, u32 PATCHES>
__device__ inline void score(f32 (&s)[PATCHES][KEYS / 8][4], u32 queries, u32 keys) {
    u32 lane = threadIdx.x % 32;
    queries += swizzled<8>(threadIdx.x / 32 * 16 * PATCHES + lane % 16, lane / 16);
    keys += swizzled<8>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (u32 i = 0; i < PATCHES * KEYS / 2; i++) s[i / (KEYS / 2)][i / 4 % (KEYS / 8)][i % 4] = 0.0f;
#pragma unroll
    for (u32 at = 0; at < DIM / 16; at++) {
        u32 left[PATCHES][4];
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++)
            load_fragments(left[p], (queries ^ at % 4 * 32) + at / 4 * PATCHES * 64 * 128 + p * 16 * 128);
#pragma unroll
        for (u32 f = 0; f < KEYS / 16; f++) {
            u32 right[4];
            load_fragments(right, (keys ^ at % 4 * 32) + at / 4 * KEYS * 128 + f * 16 * 128);
#pragma unroll
            for (u32 p = 0; p < PATCHES; p++) {
                multiply(s[p][2 * f], left[p], right[0], right[1]);
                multiply(s[p][2 * f + 1], left[p], right[2], right[3]);
            }
        }
    }
}

// Adds values times weights.
template <u32 DIM, u32 PATCHES>
__device__ inline void sum(State<1, DIM / 8> (&state)[PATCHES], const f32 (&s)[PATCHES][KEYS / 8][4], u32 values) {
    values += swizzled<8>(threadIdx.x % 16, threadIdx.x / 16 % 2);
#pragma unroll
    for (u32 at = 0; at < KEYS / 16; at++) {
        u32 left[PATCHES][4];
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++) narrow(left[p], s[p][2 * at], s[p][2 * at + 1]);
#pragma unroll
        for (u32 f = 0; f < DIM / 16; f++) {
            u32 right[4];
            load_fragments_turned(right, (values ^ f % 4 * 32) + f / 4 * KEYS * 128 + at * 16 * 128);
#pragma unroll
            for (u32 p = 0; p < PATCHES; p++) {
                multiply(state[p].out[0][2 * f], left[p], right[0], right[1]);
                multiply(state[p].out[0][2 * f + 1], left[p], right[2], right[3]);
            }
        }
    }
}

// Bits of this warp's queries that must be computed again.
template <u32 DIM, u32 PATCHES> __device__ inline u32 run(const Prompt& of, u32 tile) {
    const u32 ROWS = PATCHES * 64;
    u32 queries = shared_address(dynamic), keys = queries + ROWS * DIM * 2, values = keys + KEYS * DIM * 2;
    u32 first = tile * ROWS;
    u32 mine = (tile * 4 + threadIdx.x / 32) * 16 * PATCHES;
    f32 log2_scale = of.scale * 1.44269504f;
    Bounds seen = bounds(of, first, ROWS);
    auto copy = [&](u32 to, const weight* from, u64 stride, u64 j) {
        // Registers are too few for multiples of the strides all the way through the loop.
        asm volatile("" : "+l"(stride));
        if (j < seen.any.end)
            copy_panels<DIM, KEYS, THREADS>(to, from + j * stride + of.kv_head * of.head_dim, stride, seen.any.end - j,
                                            of.head_dim);
        copies_end_group();
    };
    copy_queries<DIM, ROWS, THREADS>(queries, of, first);
    copy(keys, of.k, of.k_stride, seen.any.begin);
    State<1, DIM / 8> state[PATCHES];
    for (u32 j = seen.any.begin; j < seen.any.end; j += KEYS) {
        f32 s[PATCHES][KEYS / 8][4], before[2];
        copies_wait<0>();
        __syncthreads();
        copy(values, of.v, of.v_stride, j);
        score<DIM, PATCHES>(s, queries, keys);
        copies_wait<0>();
        __syncthreads();
        copy(keys, of.k, of.k_stride, j + KEYS);
        bool whole = seen.all.begin <= j && j + KEYS <= seen.all.end;
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++) {
            if (!whole) mask<KEYS>(s[p], of, mine + 16 * p, threadIdx.x % 32, j);
            state[p].template weigh<KEYS>(s[p], before, log2_scale);
            state[p].shrink(before);
        }
        sum<DIM, PATCHES>(state, s, values);
    }
    u32 again = 0;
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++) again |= state[p].finish(of, mine + 16 * p, threadIdx.x % 32, log2_scale) << 16 * p;
    return again;
}

extern "C" __global__ void __launch_bounds__(128)
attention_prefill_mma(scalar* out, u64 out_stride, const scalar* q, u64 q_stride, const weight* k, u64 k_stride,
                      const weight* v, u64 v_stride, const u32* positions, u64 rows, u64 capacity, u64 window,
                      u32 n_kv_heads, u32 group, u32 head_dim, f32 scale) {
    u32 tile = (gridDim.x - 1 - blockIdx.x) / n_kv_heads;
    Prompt of = {out, q, k, v, positions, out_stride, q_stride, k_stride, v_stride, capacity, window, (u32)rows, group,
                 head_dim, blockIdx.x % n_kv_heads, scale};
    u32 again = head_dim <= 64 ? run<64, 2>(of, tile) : head_dim <= 128 ? run<128, 2>(of, tile) : run<256, 1>(of, tile);
    u32 first = (tile * 4 + threadIdx.x / 32) * (head_dim <= 128 ? 32 : 16);
    for (; again; again &= again - 1) attend_slowly(of, first + __ffs(again) - 1);
}
