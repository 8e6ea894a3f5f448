//! Angles of the rotary position embedding.

use std::f64::consts::TAU;

use crate::{Config, RopeScaling};

/// `θ_i = rope_theta^(−2i / head_dim)` for `i < head_dim / 2`, stretched as the model asks.
pub(crate) fn inverse_frequencies(config: &Config) -> Vec<f64> {
    let dim = config.shape.head_dim;
    let frequency = |i: usize| config.rope_theta.powf(-((2 * i) as f64) / dim as f64);
    (0..dim / 2).map(|i| scaled(frequency(i), config.rope_scaling)).collect()
}

fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let turns = original_context * frequency / TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

/// Writes `f(position · θ_i)` for the f32 elements that start at byte `offset` of a `[positions, θ]` table.
pub(crate) fn fill_table(frequencies: &[f64], f: fn(f64) -> f64, offset: usize, out: &mut [u8]) {
    let n = frequencies.len().max(1);
    for (i, bytes) in out.chunks_exact_mut(4).enumerate() {
        let at = offset / 4 + i;
        let angle = (at / n) as f64 * frequencies.get(at % n).copied().unwrap_or(0.0);
        bytes.copy_from_slice(&(f(angle) as f32).to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use memory_estimate::ModelShape;

    use super::*;

    fn config(scaling: RopeScaling) -> Config {
        let shape = ModelShape::named("llama-3.2-1b").unwrap();
        Config { rope_theta: 500_000.0, rope_scaling: scaling, ..Config::from_shape(shape) }
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let plain = inverse_frequencies(&config(RopeScaling::None));
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let stretched = inverse_frequencies(&config(scaling));
        assert_eq!(stretched[0], plain[0]);
        assert!((stretched[31] / plain[31] - 1.0 / 32.0).abs() < 1e-12);
        assert!(stretched.windows(2).all(|w| w[1] < w[0]));
        let ramp = plain.iter().zip(&stretched).filter(|(p, s)| *s < p && **s > *p / 32.0 * 1.0001).count();
        assert!(ramp > 0, "some frequencies lie on the ramp");
    }

    #[test]
    fn linear_divides_all() {
        let plain = inverse_frequencies(&config(RopeScaling::None));
        let stretched = inverse_frequencies(&config(RopeScaling::Linear { factor: 4.0 }));
        assert!(plain.iter().zip(&stretched).all(|(p, s)| *s == p / 4.0));
    }

    #[test]
    fn tables_can_be_filled_in_parts() {
        let frequencies = [1.0, 0.1, 0.01];
        let mut whole = vec![0; 4 * 3 * 5];
        fill_table(&frequencies, f64::cos, 0, &mut whole);
        let mut parts = whole.clone();
        parts.fill(0);
        let (a, b) = parts.split_at_mut(28);
        fill_table(&frequencies, f64::cos, 0, a);
        fill_table(&frequencies, f64::cos, 28, b);
        assert_eq!(whole, parts);
        let at = |i: usize| f32::from_ne_bytes(whole[4 * i..4 * i + 4].try_into().unwrap());
        assert_eq!(at(3 * 3 + 1), (0.3f64).cos() as f32);
    }
}
