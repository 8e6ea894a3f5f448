// embed: out[r, c] = table[ids[r], c]
//
// shape   out: [rows, cols]   table: [vocab, cols]   ids: [rows]   rows by stride
// launch  grid = pieces of 4096 elements, or less: blocks stride over them; block = 256
// needs   out apart from table
// how     one thread per eight columns; a row whose id lies outside the table becomes NaN
// cost    moves 2 * rows * cols elements

#include "common.cuh"
#include "eights.cuh"

struct Found { Eight<weight> row; bool inside; };

extern "C" __global__ void __launch_bounds__(256)
embed(scalar* out, u64 out_stride, const weight* table, u64 table_stride, const u32* ids, u64 rows, u64 cols,
      u64 vocab) {
    bool wide = aligned(table, table_stride, vocab) && aligned(out, out_stride, rows);
    auto load = [=](u64 row, u64 c, u64 left, bool wide) {
        u64 id = ids[row];
        Found found = {{}, id < vocab};
        if (found.inside) found.row = hold8(table + id * table_stride + c, left, wide);
        return found;
    };
    for_each_eight<1, 2>(rows, cols, wide, load, [=](u64 row, u64 c, u64 left, bool wide, Found found) {
        f32 v[8];
        unpack(found.row, v);
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = found.inside ? v[i] : not_a_number();
        store8(out + row * out_stride + c, left, wide, v);
    });
}
