// matmul: out[i, j] = sum_c x[i, c] * w[j, c] (+ out[i, j] if `accumulate`), for many rows of x
//
// shape   x: [m, k]   w: [n, k], or [k, n] if `plain`   out: [m, n]
//         rows by stride; out is f32 instead of x's type if `wide`
// launch  grid = tiles of 128 x 128 if `large`, else of 64 x 64, or less: blocks stride over tiles; block = 256
// needs   out apart from x and w
// how     a block multiplies tiles of 16 columns in shared memory, 8 x 8 or 4 x 4 outputs per thread, in f32; the next
//         columns are on their way to registers meanwhile. Each operand is read along the dimension in which it is contiguous.
// cost    2 * m * n * k operations; moves x and w once per tile of the other, from the cache at best

#include "common.cuh"

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

template <u32 EACH>
__device__ inline void multiply(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride,
                                u64 m, u64 n, u64 k, bool plain, bool accumulate, bool wide) {
    const u32 TILE = 16 * EACH;
    u64 across = (n + TILE - 1) / TILE, down = (m + TILE - 1) / TILE;
    u32 row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    for (u64 tile = blockIdx.x; tile < across * down; tile += gridDim.x) {
        u64 i = tile / across * TILE, j = tile % across * TILE;
        Part<TILE, scalar> left(x, x_stride, i, m, k, false);
        Part<TILE, weight> right(w, w_stride, j, n, k, plain);
        f32 sums[EACH][EACH] = {};
        left.load(0), right.load(0);
        for (u64 c = 0; c < k; c += DEPTH) {
            f32(*now)[DEPTH][PITCH] = tiles[c / DEPTH % 2];
            left.give(now[0]), right.give(now[1]);
            __syncthreads();
            left.load(c + DEPTH), right.load(c + DEPTH);
#pragma unroll
            for (u32 d = 0; d < DEPTH; d++) {
                f32 p[EACH], q[EACH];
                read(now[0][d], row, p), read(now[1][d], column, q);
#pragma unroll
                for (u32 r = 0; r < EACH; r++)
#pragma unroll
                    for (u32 s = 0; s < EACH; s++) sums[r][s] += p[r] * q[s];
            }
        }
        __syncthreads();
#pragma unroll
        for (u32 r = 0; r < EACH; r++)
#pragma unroll
            for (u32 s = 0; s < EACH; s++) {
                u64 to_row = i + r / 4 * 64 + row + r % 4, to_column = j + s / 4 * 64 + column + s % 4;
                if (to_row >= m || to_column >= n) continue;
                u64 at = to_row * out_stride + to_column;
                if (wide) put((f32*)out + at, sums[r][s], accumulate);
                else put(out + at, sums[r][s], accumulate);
            }
    }
}

extern "C" __global__ void __launch_bounds__(256)
matmul(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const weight* w, u64 w_stride, u64 m, u64 n, u64 k,
       u32 plain, u32 accumulate, u32 wide, u32 large) {
    if (large) multiply<8>(out, out_stride, x, x_stride, w, w_stride, m, n, k, plain, accumulate, wide);
    else multiply<4>(out, out_stride, x, x_stride, w, w_stride, m, n, k, plain, accumulate, wide);
}
