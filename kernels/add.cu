// add: out[r, c] = x[r, c] + y[r, c]
//
// shape   out, x, y: [rows, cols], rows by stride
// launch  grid = pieces of 4096 elements, or less: blocks stride over them; block = 256
// needs   out is x itself or apart from it
// how     one thread per eight columns of two tiles (eights.cuh), whose loads are under way at the same time
// cost    moves 3 * rows * cols elements

#include "common.cuh"
#include "eights.cuh"

struct Both { Eight<scalar> x, y; };

extern "C" __global__ void __launch_bounds__(256)
add(scalar* out, u64 out_stride, const scalar* x, u64 x_stride, const scalar* y, u64 y_stride, u64 rows, u64 cols) {
    bool wide = aligned(x, x_stride, rows) && aligned(y, y_stride, rows) && aligned(out, out_stride, rows);
    auto load = [=](u64 row, u64 c, u64 left, bool wide) {
        return Both{hold8(x + row * x_stride + c, left, wide), hold8(y + row * y_stride + c, left, wide)};
    };
    for_each_eight<2, 1>(rows, cols, wide, load, [=](u64 row, u64 c, u64 left, bool wide, Both held) {
        f32 a[8], b[8];
        unpack(held.x, a), unpack(held.y, b);
#pragma unroll
        for (u32 i = 0; i < 8; i++) a[i] += b[i];
        store8(out + row * out_stride + c, left, wide, a);
    });
}
