//! Launches `kernels/swiglu_wgmma.cu`.

use super::grid::exact;
use crate::launch::{Out, Scalar, kernel};
use crate::tensor_map::TensorMap;

kernel! {
    /// `out = silu(x · gateᵀ) · (x · upᵀ)` of weights that hold gate and up one after the other, on Hopper's tensor cores.
    fn swiglu_wgmma(
        out: Out<'a, Scalar>,
        out_stride: u64,
        x: TensorMap,
        w: TensorMap,
        m: u64,
        ffn: u64,
        k: u64,
    ),
    block = 384,
    shared = 231488,
    types = "f16-f16 bf16-bf16",
    targets = "compute_90a",
}

/// Rows and outputs of a tile, and rows that the copy engine takes at a time.
pub const TILE: u32 = 128;

/// Blocks of a launch on a card with this many multiprocessors, each of which runs one, and the share of the time for which
/// all of them have a tile; none if there are too many tiles.
pub fn grid(m: u64, ffn: u64, multiprocessors: u32) -> Option<(u32, f64)> {
    let tiles = exact(m.div_ceil(TILE.into()).checked_mul(ffn.div_ceil(TILE.into()))?)?;
    let blocks = tiles.min(multiprocessors.max(1));
    let turns = tiles.div_ceil(multiprocessors.max(1)).max(1);
    Some((blocks, f64::from(tiles) / f64::from(turns) / f64::from(multiprocessors.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_turn_leaves_blocks_idle() {
        let share = |m, ffn| grid(m, ffn, 132).map(|(blocks, share)| (blocks, (share * 100.0).round()));
        assert_eq!(share(0, 14336), Some((0, 0.0)));
        assert_eq!(share(16, 300), Some((3, 2.0)));
        assert_eq!(share(512, 14336), Some((132, 85.0)));
        assert_eq!(share(2048, 14336), Some((132, 97.0)));
        assert_eq!(share(u64::MAX, 14336), None);
    }
}
