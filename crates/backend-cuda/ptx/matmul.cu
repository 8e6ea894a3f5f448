// matmul: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n]
//         rows by stride; out is f32 instead of x's type if `wide`
// launch  grid = two blocks per multiprocessor, or less, at most 1024, and the tiles they share (tile.rs); block = 256
// needs   out apart from x and w; parts: a tile of f32 per block and per shared tile (parts.cuh); one launch at a time;
//         counters: as many as blocks, 0
// how     a block multiplies tiles of 128 x 128 outputs if `large`, else of 64 x 128, in steps of 16 columns in shared memory,
//         8 x 8 or 4 x 8 outputs per thread, in f32; the next columns are on their way to registers meanwhile. Each operand is
//         read along the dimension in which it is contiguous.
// cost    2 * m * n * k operations; moves x and w once per tile of the other, from the cache at best

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

const u32 DEPTH = 16, PITCH = 128 + 4;

// DEPTH columns of a tile of both operands, twice: as [column][row].
__shared__ __align__(16) f32 tiles[2][2][DEPTH][PITCH];

// Eight elements of [rows, k] of each of the first TILE / 8 * DEPTH threads: rows first .. first + TILE, columns c .. c + DEPTH.
template <u32 TILE, class E> struct Part {
    const E* from;
    u64 stride, first, rows, k;
    bool plain, wide;
    Eight<E> held;

    __device__ Part(const E* from, u64 stride, u64 first, u64 rows, u64 k, bool plain)
        : from(from), stride(stride), first(first), rows(rows), k(k), plain(plain),
          wide(aligned(from, stride, plain ? k : rows)) {}

    // Asks for them; what is outside is 0.
    __device__ void load(u64 c) {
        u32 line = plain ? threadIdx.x / (TILE / 8) : threadIdx.x % TILE;
        u32 at = plain ? threadIdx.x % (TILE / 8) * 8 : threadIdx.x / TILE * 8;
        u64 row = (plain ? c : first) + line, column = (plain ? first : c) + at;
        u64 high = plain ? k : rows, across = plain ? rows : k;
        if (threadIdx.x >= TILE / 8 * DEPTH) return;
        held = hold8(from + row * stride + column, row < high && column < across ? across - column : 0, wide);
    }

    // Puts them where the block finds them.
    __device__ void give(f32 (*tile)[PITCH]) const {
        if (threadIdx.x >= TILE / 8 * DEPTH) return;
        f32 v[8];
        unpack(held, v);
        if (plain) {
            float4* to = (float4*)&tile[threadIdx.x / (TILE / 8)][threadIdx.x % (TILE / 8) * 8];
            to[0] = make_float4(v[0], v[1], v[2], v[3]), to[1] = make_float4(v[4], v[5], v[6], v[7]);
        } else {
#pragma unroll
            for (u32 i = 0; i < 8; i++) tile[threadIdx.x / TILE * 8 + i][threadIdx.x % TILE] = v[i];
        }
    }
};

// A thread's rows, or columns, of a tile: four, and of a large one four of its other half.
template <u32 EACH> __device__ inline void read(const f32* tile, u32 first, f32 (&v)[EACH]) {
#pragma unroll
    for (u32 i = 0; i < EACH; i += 4) {
        float4 four = *(const float4*)(tile + i * 16 + first);
        v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
}

template <u32 DOWN, u32 ACROSS>
__device__ inline void multiply(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride,
                                u64 m, u64 n, u64 k, bool plain, bool accumulate, bool wide, u32 shared, float4* parts, u32* counters) {
    const u32 ROWS = 16 * DOWN, COLS = 16 * ACROSS;
    u64 down = (m + ROWS - 1) / ROWS, across = (n + COLS - 1) / COLS;
    u32 row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    Shares shares(down * across, (k + DEPTH - 1) / DEPTH, shared);
    for (Share share; shares.take(share);) {
        u64 i, j;
        place(share.tile, down, across, i, j);
        i *= ROWS, j *= COLS;
        Part<ROWS, scalar> left(x, x_stride, i, m, k, false);
        Part<COLS, weight> right(w, w_stride, j, n, k, plain);
        f32 sums[DOWN][ACROSS / 4][4] = {};
        left.load((u64)share.first * DEPTH), right.load((u64)share.first * DEPTH);
        __syncthreads();
#pragma unroll 1
        for (u32 step = share.first; step < share.last; step++) {
            f32(*now)[DEPTH][PITCH] = tiles[step % 2];
            left.give(now[0]), right.give(now[1]);
            __syncthreads();
            left.load((u64)(step + 1) * DEPTH), right.load((u64)(step + 1) * DEPTH);
#pragma unroll
            for (u32 d = 0; d < DEPTH; d++) {
                f32 p[DOWN], q[ACROSS];
                read(now[0][d], row, p), read(now[1][d], column, q);
#pragma unroll
                for (u32 r = 0; r < DOWN; r++)
#pragma unroll
                    for (u32 s = 0; s < ACROSS; s++) sums[r][s / 4][s % 4] += p[r] * q[s];
            }
        }
        if (!meet(sums, shares, share, parts, counters, DOWN)) continue;
#pragma unroll
        for (u32 r = 0; r < DOWN; r++)
#pragma unroll
            for (u32 s = 0; s < ACROSS; s++) {
                u64 to_row = i + r / 4 * 64 + row + r % 4, to_column = j + s / 4 * 64 + column + s % 4;
                if (to_row >= m || to_column >= n) continue;
                u64 at = to_row * out_stride + to_column;
                if (wide) put((f32*)out + at, sums[r][s / 4][s % 4], accumulate);
                else put(out + at, sums[r][s / 4][s % 4], accumulate);
            }
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
matmul(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
       u32 plain, u32 accumulate, u32 wide, u32 large, u32 shared, f32* parts, u32* counters) {
    if (large) multiply<8, 8>(out, out_stride, x, x_stride, w, w_stride, m, n, k, plain, accumulate, wide, shared, (float4*)parts, counters);
    else multiply<4, 8>(out, out_stride, x, x_stride, w, w_stride, m, n, k, plain, accumulate, wide, shared, (float4*)parts, counters);
}
