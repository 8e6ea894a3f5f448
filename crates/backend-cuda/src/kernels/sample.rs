//! Launches `kernels/sample.cu`.

use crate::launch::{In, Out, Scalar, kernel};

kernel! {
    /// Chooses an id from one row of logits; `least` is `SampleParams::min_p_weight`, at most 2^40.
    fn sample(
        id: Out<'a, u32>,
        position: Out<'a, u32>,
        history: Out<'a, u32>,
        context: u64,
        logits: In<'a, Scalar>,
        vocab: u32,
        penalized: Out<'a, f32>,
        weights: Out<'a, u64>,
        space: Out<'a, u64>,
        counters: Out<'a, u32>,
        repetition_penalty: f32,
        temperature: f32,
        top_k: u64,
        top_p: f32,
        least: u64,
        seed: u64,
    ),
    block = 1024,
    types = "f32 f16 bf16",
    targets = "compute_50",
}

/// Elements of `space`.
pub const SPACE: usize = 15_361;

/// Most blocks of a launch.
const MOST: usize = 1024;

/// Blocks of a launch, all of which must run at once: one on each multiprocessor, for at least 256 ids.
pub fn grid(vocab: usize, multiprocessors: u32) -> u32 {
    vocab.div_ceil(256).clamp(1, MOST).min(multiprocessors.max(1) as usize) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::archive;

    #[test]
    fn the_kernel_uses_as_much_space_as_it_is_given() {
        let source = archive::source("sample").unwrap();
        assert!(source.contains(&format!("SPACE = {SPACE};")));
        assert!(source.contains(&format!("MOST_BLOCKS = {MOST};")));
    }

    #[test]
    fn there_are_as_many_blocks_as_can_run_at_once() {
        assert_eq!(grid(0, 132), 1);
        assert_eq!(grid(257, 132), 2);
        assert_eq!(grid(32_000, 132), 125);
        assert_eq!(grid(128_256, 132), 132);
        assert_eq!(grid(1 << 22, 2000), 1024);
    }
}
