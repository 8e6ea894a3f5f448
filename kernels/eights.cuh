// Elementwise kernels: a walk over eight columns at a time, spread over the whole grid. Needs common.cuh.

// Each eighth column of a part of [rows, cols]: see for_each_eight.
template <u32 AT_ONCE, u32 TIMES, bool WHOLE, class Load, class Finish>
__device__ inline void eights_of(u64 rows, u64 cols, bool wide, Load load, Finish finish) {
    u32 shift = 32 - __clz((u32)min((cols + 7) / 8, (u64)blockDim.x) - 1), high = blockDim.x >> shift;
    u64 across = ((cols + 7) / 8 + (1 << shift) - 1) >> shift, row[AT_ONCE], column[AT_ONCE], line, at;
#pragma unroll 1
    for (u64 tile = (u64)blockIdx.x * AT_ONCE * TIMES;; tile += (u64)gridDim.x * AT_ONCE * TIMES) {
        divide(tile, across, line, at);
        if (line * high >= rows) return;
#pragma unroll 1
        for (u32 time = 0; time < TIMES; time++) {
            decltype(load(0, 0, 8, true)) held[AT_ONCE];
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) {
                row[i] = line * high + (threadIdx.x >> shift);
                column[i] = (at << shift | threadIdx.x & (1 << shift) - 1) * 8;
                if (++at == across) at = 0, line++;
            }
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++)
                if (row[i] < rows && column[i] < cols)
                    held[i] = load(row[i], column[i], WHOLE ? 8 : cols - column[i], WHOLE || wide);
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++)
                if (row[i] < rows && column[i] < cols)
                    finish(row[i], column[i], WHOLE ? 8 : cols - column[i], WHOLE || wide, held[i]);
        }
    }
}

// finish(row, column, left, wide, load(row, column, left, wide)) once for each eighth column of [rows, cols], spread over
// the whole grid; `left` columns are left in the row, and what is `wide` begins at multiples of 16 bytes. A block takes
// TIMES times AT_ONCE tiles, of as many eights as it has threads (a power of two), that lie one after the other; AT_ONCE
// are loaded before the first is finished.
template <u32 AT_ONCE, u32 TIMES, class Load, class Finish>
__device__ inline void for_each_eight(u64 rows, u64 cols, bool wide, Load load, Finish finish) {
    if (wide && cols % 8 == 0) eights_of<AT_ONCE, TIMES, true>(rows, cols, wide, load, finish);
    else eights_of<1, AT_ONCE * TIMES, false>(rows, cols, wide, load, finish);
}
