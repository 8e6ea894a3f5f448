// embed: out[r, c] = table[ids[r], c]
//
// shape   out: [rows, cols]   table: [vocab, cols]   ids: [rows]   rows by stride
// launch  grid = pieces of 2048 elements, or less: blocks stride over them; block = 256
// needs   out apart from table
// how     one thread per eight columns; a row whose id lies outside the table becomes NaN
// cost    moves 2 * rows * cols elements

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
embed(scalar* out, u64 out_stride, const weight* table, u64 table_stride, const u32* ids, u64 rows, u64 cols,
      u64 vocab) {
    bool wide = aligned(table, table_stride, vocab) && aligned(out, out_stride, rows);
    for_each_eight(rows, cols, [=](u64 row, u64 c) {
        u64 id = ids[row];
        f32 v[8];
        if (id < vocab) load8(table + id * table_stride + c, cols - c, wide, v);
        else for (u32 i = 0; i < 8; i++) v[i] = not_a_number();
        store8(out + row * out_stride + c, cols - c, wide, v);
    });
}
