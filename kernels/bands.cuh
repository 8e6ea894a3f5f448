// The order in which blocks take the tiles of a product. Needs common.cuh.

// Row and column of a tile. Sixteen rows of tiles are walked together, column by column, so that blocks that run at the
// same time read the same rows of both operands.
__device__ inline void place(u64 tile, u64 down, u64 across, u64& row, u64& column) {
    u64 band = tile / (16 * across) * 16, high = min(down - band, 16ull), inside = tile - band * across;
    row = band + inside % high, column = inside / high;
}
