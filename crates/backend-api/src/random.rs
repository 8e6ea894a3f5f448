//! Random numbers that are a function of a seed and a counter, so that every backend draws the same ones.

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
pub fn philox(seed: u64, counter: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut c = [counter as u32, (counter >> 32) as u32, 0, 0];
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ key[0], b as u32, (a >> 32) as u32 ^ c[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// Element `index` of a random fill: uniform in `[-scale, scale)`, from word `index % 4` of block `index / 4`.
pub fn uniform(seed: u64, index: u64, scale: f32) -> f32 {
    uniforms(seed, index / 4, scale)[(index % 4) as usize]
}

/// Elements `4 · block .. 4 · block + 4` of a random fill.
pub fn uniforms(seed: u64, block: u64, scale: f32) -> [f32; 4] {
    philox(seed, block).map(|word| ((word >> 8) as f32 * (2.0 / (1u32 << 24) as f32) - 1.0) * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(philox(0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    #[test]
    fn fills_have_the_moments_of_a_uniform_distribution() {
        let n = 100_000u64;
        let values: Vec<f64> = (0..n).map(|i| f64::from(uniform(7, i, 0.5))).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / n as f64;
        assert!(mean.abs() < 2e-3, "{mean}");
        assert!((variance - 0.25 / 3.0).abs() < 1e-3, "{variance}");
        assert!(values.iter().all(|v| (-0.5..0.5).contains(v)));
        assert_ne!(uniform(7, 3, 1.0), uniform(8, 3, 1.0));
    }
}
