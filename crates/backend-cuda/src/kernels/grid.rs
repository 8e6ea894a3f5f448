//! How many blocks a launch takes. Kernels stride over what is left, so that any number of at least one is right.

/// The most blocks of a launch: enough to fill any card many times over, and within every limit of the driver.
const MOST: u64 = 1 << 20;

/// Elements that a block of 256 threads takes at a time, eight per thread.
const TILE: u64 = 2048;

/// One block per piece of work.
pub fn blocks(pieces: u64) -> u32 {
    pieces.min(MOST) as u32
}

/// One block per piece of work, for kernels whose blocks do not stride; none where the driver does not take as many.
pub fn exact(pieces: u64) -> Option<u32> {
    u32::try_from(pieces).ok().filter(|blocks| *blocks <= i32::MAX.unsigned_abs())
}

/// Blocks of 256 threads that take eight columns per thread of each of `tiles` tiles.
pub fn eights(rows: u64, cols: u64, tiles: u64) -> u32 {
    let lanes = lanes(cols);
    let across = cols.div_ceil(8).div_ceil(lanes);
    blocks(rows.div_ceil(TILE / 8 / lanes).saturating_mul(across).div_ceil(tiles))
}

/// Blocks of 256 threads that take a row, or as many short ones as there are threads for, eight columns per thread.
pub fn rows_of_eights(rows: u64, cols: u64) -> u32 {
    if cols == 0 { 0 } else { blocks(rows.div_ceil(TILE / 8 / lanes(cols))) }
}

/// Threads of 256 for a row, each with eight columns.
fn lanes(cols: u64) -> u64 {
    cols.div_ceil(8).next_power_of_two().min(TILE / 8)
}

/// Blocks of kernels with `dots.cuh`: `m` rows against `n` rows of `k` columns.
pub fn dots(m: u64, n: u64, k: u64) -> u32 {
    let lanes = k.div_ceil(8).max(1).next_power_of_two().min(32);
    let rows_of_group = if m == 1 { 4 } else { 2 };
    if m == 0 { 0 } else { blocks(n.div_ceil(rows_of_group * 256 / lanes)) }
}

/// Blocks of kernels with `columns.cuh`, `m` rows against columns 0 .. `n`, and how many lanes share a row: 32, or as few as
/// give half as many blocks again as there are multiprocessors.
pub fn columns(m: u64, n: u64, multiprocessors: u32) -> (u32, u32) {
    let (down, eights) = (if m == 1 { 1 } else { m.div_ceil(4) }, n.div_ceil(8));
    let tiles = |lanes: u32| down.saturating_mul(eights.div_ceil(lanes.into()));
    let enough = u64::from(multiprocessors) * 3 / 2;
    let lanes = [32, 16, 8, 4, 2].into_iter().find(|lanes| tiles(*lanes) >= enough).unwrap_or(1);
    (blocks(tiles(lanes)), lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_elements_once() {
        assert_eq!(eights(0, 5, 1), 0);
        assert_eq!(eights(5, 0, 1), 0);
        assert_eq!(eights(1, 2048, 1), 1);
        assert_eq!(eights(1, 2049, 1), 2);
        assert_eq!(eights(1, 2049, 2), 1);
        assert_eq!(eights(256, 8, 1), 1);
        assert_eq!(eights(257, 1, 1), 2);
        assert_eq!(eights(3, 4096, 1), 6);
        assert_eq!(eights(3, 4096, 4), 2);
        assert_eq!(eights(u64::MAX, u64::MAX / 2, 1), 1 << 20);
        assert_eq!(rows_of_eights(0, 8), 0);
        assert_eq!(rows_of_eights(5, 0), 0);
        assert_eq!(rows_of_eights(5, 1 << 40), 5);
        assert_eq!(rows_of_eights(5, 512), 2);
        assert_eq!(rows_of_eights(257, 1), 2);
    }

    #[test]
    fn blocks_of_products_cover_the_outputs() {
        assert_eq!(dots(0, 7, 7), 0);
        assert_eq!(dots(1, 4096, 4096), 128);
        assert_eq!(dots(5, 4096, 4096), 256);
        assert_eq!(dots(1, 32_768, 128), 512);
        assert_eq!(dots(1, 5, 0), 1);
        assert_eq!(columns(1, 4096, 132), (256, 2));
        assert_eq!(columns(8, 4096, 132), (256, 4));
        assert_eq!(columns(1, 1024, 132), (128, 1));
        assert_eq!(columns(1, 1 << 20, 132), (4096, 32));
        assert_eq!(columns(5, 257, 1), (4, 32));
        assert_eq!(columns(5, 0, 132), (0, 1));
    }
}
