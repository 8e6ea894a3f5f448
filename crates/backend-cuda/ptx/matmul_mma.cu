// matmul_mma: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x, on tensor cores
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n], f32 if `wide_out`   rows by stride
// launch  grid = one block per multiprocessor, or less, at most 1024, and the tiles they share (tile.rs); block = 256; shared = 98304
// needs   k a multiple of 8, n too if `plain`; rows of x and w at multiples of 16 bytes; out apart from x and w;
//         parts: 128 x 256 of f32 per block and per shared tile (parts.cuh); one launch at a time;
//         counters: as many as blocks, 0
// how     a block computes tiles of 128 x 256 in steps of 32 columns, four of which are in shared memory or on the way to it.
//         Each of its 2 x 4 warps computes 64 x 64 with mma.sync, its operands one fragment of 16 columns ahead in registers.
// cost    2 * m * n * k operations; moves x n / 256 times and w m / 128 times, from the cache at best

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
// The order in which blocks take the tiles of a product. Needs common.cuh.

// Row and column of a tile. Sixteen rows of tiles are walked together, column by column, so that blocks that run at the
// same time read the same rows of both operands.
__device__ inline void place(u64 tile, u64 down, u64 across, u64& row, u64& column) {
    u64 band = tile / (16 * across) * 16, high = min(down - band, 16ull), inside = tile - band * across;
    row = band + inside % high, column = inside / high;
}
// Tiles that several blocks share.
//
// A product's output is cut into tiles, its dimension k into steps. Blocks take whole tiles, and the steps of the last tiles, as
// many as the launcher says (tile.rs), are dealt out evenly, so that several blocks may hold parts of one tile. The last of
// them to arrive adds the parts up in the order of the blocks: the same bits in every run with the same grid. Needs common.cuh.

// The steps first .. last of one tile.
struct Share {
    u32 tile, first, last;
};

struct Shares {
    u32 tiles, steps, shared, next;
    u64 unit;

    // shared: how many tiles several blocks share, less than there are blocks; the last ones.
    __device__ Shares(u32 tiles, u32 steps, u32 shared) : tiles(tiles), steps(steps), shared(shared), next(blockIdx.x) {
        unit = begin(blockIdx.x);
    }

    __device__ u32 whole() const { return tiles - shared; }

    // Steps of shared tiles that blocks before `block` take.
    __device__ u64 begin(u32 block) const { return (u64)shared * steps * block / gridDim.x; }

    // The block that takes such a step.
    __device__ u32 owner(u64 unit) const { return ((unit + 1) * gridDim.x - 1) / ((u64)shared * steps); }

    __device__ bool take(Share& share) {
        if (next < whole()) {
            share = Share{next, 0, steps};
            next += gridDim.x;
            return true;
        }
        u64 end = begin(blockIdx.x + 1);
        if (unit >= end) return false;
        u32 first = unit % steps, last = min(first + (end - unit), (u64)steps);
        share = Share{whole() + (u32)(unit / steps), first, last};
        unit += last - first;
        return true;
    }
};

// Adds the parts of a shared tile up, in every thread's own sums; true for the block that holds them then. `arrived`
// counts the blocks that have left their part of a tile, by its number among those that are dealt out, which is less than
// the grid; zero between launches, of which one at a time runs. The patches
// from `patches` on are not looked at.
template <u32 PATCHES, u32 WIDE>
__device__ inline bool meet(f32 (&sums)[PATCHES][WIDE][4], const Shares& shares, const Share& share, float4* parts,
                            u32* arrived, u32 patches) {
    if (share.last - share.first == shares.steps) return true;
    __shared__ bool last;
    u32 rest = share.tile - shares.whole();
    u32 from = shares.owner((u64)rest * shares.steps), to = shares.owner((u64)rest * shares.steps + shares.steps - 1);
    u32 size = PATCHES * WIDE * blockDim.x;
    float4* part = parts + (u64)(blockIdx.x + rest) * size + threadIdx.x;
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++)
#pragma unroll
        for (u32 f = 0; f < WIDE; f++)
            if (p < patches)
                part[(p * WIDE + f) * blockDim.x] =
                    make_float4(sums[p][f][0], sums[p][f][1], sums[p][f][2], sums[p][f][3]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&arrived[rest], 1) == to - from;
        if (last) arrived[rest] = 0;
    }
    __syncthreads();
    if (!last) return false;
    __threadfence();
#pragma unroll
    for (u32 i = 0; i < PATCHES * WIDE * 4; i++) sums[i / (4 * WIDE)][i / 4 % WIDE][i % 4] = 0.0f;
    for (u32 block = from; block <= to; block++) {
        part = parts + (u64)(block + rest) * size + threadIdx.x;
#pragma unroll
        for (u32 p = 0; p < PATCHES; p++)
#pragma unroll
            for (u32 f = 0; f < WIDE; f++) {
                if (p >= patches) continue;
                float4 v = __ldcg(part + (p * WIDE + f) * blockDim.x);
                sums[p][f][0] += v.x, sums[p][f][1] += v.y, sums[p][f][2] += v.z, sums[p][f][3] += v.w;
            }
    }
    return true;
}

const u32 ROWS = 128, COLS = 256, DEPTH = 32, STAGES = 4, DOWN = 2, ACROSS = 4, THREADS = DOWN * ACROSS * 32;
const u32 PATCHES = ROWS / DOWN / 16, WIDE = COLS / ACROSS / 8, PIECES = DEPTH / 8, PITCH = COLS + 8;
const u32 RIGHT = ROWS * DEPTH * 2, STAGE = (ROWS + COLS) * DEPTH * 2;

struct Fragments {
    u32 left[PATCHES][4], right[WIDE / 2][4];
};

template <u32 PLAIN> __device__ inline void copy(const Operands& of, u32 slot, u64 i, u64 j, u64 step) {
    copy_step<PLAIN, ROWS, COLS, DEPTH, THREADS>(shared_address(dynamic) + slot * STAGE, of, i, j, step);
}

// Columns 16 * at .. 16 * at + 16 of this warp's part of a stage.
template <u32 PLAIN> __device__ inline void load(Fragments& to, u32 slot, u32 at) {
    u32 from = shared_address(dynamic) + slot * STAGE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u32 row = warp / ACROSS * 16 * PATCHES + lane % 16, column = warp % ACROSS * 8 * WIDE;
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++)
        load_fragments(to.left[p], from + swizzled<PIECES>(row + 16 * p, 2 * at + lane / 16));
#pragma unroll
    for (u32 f = 0; f < WIDE / 2; f++) {
        if (PLAIN) {
            u32 j = column + 16 * f + lane / 16 * 8;
            u32 panel = from + RIGHT + j / 64 * DEPTH * 128;
            load_fragments_turned(to.right[f], panel + swizzled<8>(16 * at + lane % 16, j % 64 / 8));
        } else {
            u32 j = column + 16 * f + lane / 16 * 8 + lane % 8;
            load_fragments(to.right[f], from + RIGHT + swizzled<PIECES>(j, 2 * at + lane / 8 % 2));
        }
    }
}

__device__ inline void multiply_all(f32 (&sums)[PATCHES][WIDE][4], const Fragments& of) {
#pragma unroll
    for (u32 p = 0; p < PATCHES; p++)
#pragma unroll
        for (u32 f = 0; f < WIDE; f++)
            multiply(sums[p][f], of.left[p], of.right[f / 2][f % 2 * 2], of.right[f / 2][f % 2 * 2 + 1]);
}

// Sums over a share of the tile at (i, j).
template <u32 PLAIN>
__device__ inline void run(f32 (&sums)[PATCHES][WIDE][4], const Operands& of, const Share& share, u64 i, u64 j) {
    Fragments fragments[2];
    copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (share.first + s < share.last) copy<PLAIN>(of, s, i, j, share.first + s);
        copies_end_group();
    }
    copies_wait<STAGES - 2>();
    __syncthreads();
    load<PLAIN>(fragments[0], 0, 0);
    u32 slot = 0, filled = STAGES - 1;
    for (u32 step = share.first; step < share.last; step++) {
        u32 after = slot + 1 == STAGES ? 0 : slot + 1;
#pragma unroll
        for (u32 at = 0; at < DEPTH / 16; at++) {
            bool ends = at + 1 == DEPTH / 16;
            if (ends) {
                copies_wait<STAGES - 2>();
                __syncthreads();
            }
            load<PLAIN>(fragments[(at + 1) % 2], ends ? after : slot, ends ? 0 : at + 1);
            if (at == 0) {
                if (step + STAGES - 1 < share.last) copy<PLAIN>(of, filled, i, j, step + STAGES - 1);
                copies_end_group();
                filled = filled + 1 == STAGES ? 0 : filled + 1;
            }
            multiply_all(sums, fragments[at % 2]);
        }
        slot = after;
    }
}

extern "C" __global__ void __launch_bounds__(256)
matmul_mma(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
           u32 plain, u32 accumulate, u32 wide_out, u32 shared, f32* parts, u32* counters) {
    Operands of = {x, w, x_stride, w_stride, m, n, k};
    Output to = {out, out_stride, m, n, accumulate != 0, wide_out != 0};
    u64 down = (m + ROWS - 1) / ROWS, across = (n + COLS - 1) / COLS;
    u32 warp = threadIdx.x / 32;
    Shares shares(down * across, (k + DEPTH - 1) / DEPTH, shared);
    for (Share share; shares.take(share);) {
        u64 i, j;
        place(share.tile, down, across, i, j);
        i *= ROWS, j *= COLS;
        f32 sums[PATCHES][WIDE][4] = {};
        if (plain) run<1>(sums, of, share, i, j);
        else run<0>(sums, of, share, i, j);
        u64 left = m - min(i + warp / ACROSS * 16 * PATCHES, m);
        if (!meet(sums, shares, share, (float4*)parts, counters, min((left + 15) / 16, (u64)PATCHES))) continue;
        // Shared memory holds the rows of one row of warps at a time.
        for (u32 high = 0; high < DOWN; high++, i += ROWS / DOWN) {
            f32* space = (f32*)dynamic;
            __syncthreads();
#pragma unroll
            for (u32 p = 0; p < PATCHES; p++)
                if (warp / ACROSS == high) stage<PITCH>(space + p * 16 * PITCH + warp % ACROSS * WIDE * 8, sums[p]);
            __syncthreads();
            auto add = [=](f32 (&sum)[8], u32 row, u32 column) {
                f32 more[8];
                load8_wide(space + row * PITCH + column, more);
                for (u32 e = 0; e < 8; e++) sum[e] += more[e];
            };
            write_rows<COLS>(to, i, j, ROWS / DOWN, 0, 1, add);
        }
    }
}
