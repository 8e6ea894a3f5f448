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
    shared = 211008,
    types = "f16-f16 bf16-bf16",
    targets = "compute_90a",
}

/// Rows of a box of `x`, and of one of `w`: what a block, and a cluster of two, takes at a time.
pub const BOXES: [u32; 2] = [128, 112];

/// Blocks of a cluster.
pub const CLUSTER: u32 = 2;

/// Blocks of a launch on a card with this many multiprocessors, each of which runs one, and the share of their work that goes
/// into outputs, not into what tiles have beyond them or into waiting for the last ones; none if there are too many tiles.
pub fn grid(m: u64, ffn: u64, multiprocessors: u32) -> Option<(u32, f64)> {
    let [rows, outputs] = BOXES.map(u64::from);
    let tiles = exact(m.div_ceil(2 * rows).checked_mul(ffn.div_ceil(outputs))?)?;
    let clusters = (multiprocessors / CLUSTER).max(1);
    let turns = tiles.div_ceil(clusters).max(1);
    let done = f64::from(turns) * f64::from(clusters) * (2 * rows * outputs) as f64;
    Some((tiles.min(clusters) * CLUSTER, m as f64 * ffn as f64 / done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_beyond_the_outputs_and_a_short_last_turn_are_waste() {
        let share = |m, ffn| grid(m, ffn, 132).map(|(blocks, share)| (blocks, (share * 100.0).round()));
        assert_eq!(share(0, 14336), Some((0, 0.0)));
        assert_eq!(share(16, 300), Some((6, 0.0)));
        assert_eq!(share(512, 14336), Some((132, 97.0)));
        assert_eq!(share(700, 14336), Some((132, 88.0)));
        assert_eq!(share(2048, 14336), Some((132, 97.0)));
        assert_eq!(share(u64::MAX, 14336), None);
    }
}
