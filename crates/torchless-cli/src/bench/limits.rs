//! What the machine could do for a model, beside its read bandwidth.

use std::thread::sleep;
use std::time::{Duration, Instant};

use torchless::ops::{Matmul, WeightLayout};
use torchless::{DType, KernelBackend, Mat, MatMut, ModelShape, Op, Result};

/// Sides of square products; each has eight times the arithmetic of the one before it.
const SIDES: [usize; 5] = [512, 1024, 2048, 4096, 8192];

/// Seconds of a product after which no larger one is tried.
const LONG: f64 = 0.01;

/// How often a product is timed, in bursts of about so many seconds: computing without a break, a GPU lowers its clocks.
const BURSTS: usize = 5;
const BURST: f64 = 0.005;
const REST: Duration = Duration::from_millis(20);

/// The peak of products with weights of this type, in operations per second: the fastest of a few, larger and larger while
/// there is room and time. Takes about a second at most.
///
/// # Errors
/// Those of the backend.
pub(crate) fn product_peak<B: KernelBackend>(backend: &B, weights: DType) -> Result<f64> {
    let mut peak = 0.0_f64;
    for side in SIDES {
        // Three matrices of at most 4 bytes an element, in half of what is free.
        let bytes = 12 * side as u64 * side as u64;
        if peak > 0.0 && backend.memory().free.is_some_and(|free| bytes > free / 2) {
            break;
        }
        let seconds = product_seconds(backend, side, weights)?;
        peak = peak.max(2.0 * (side as f64).powi(3) / seconds);
        if seconds > LONG {
            break;
        }
    }
    Ok(peak)
}

/// Seconds of a product of square matrices, the best of a few bursts.
fn product_seconds<B: KernelBackend>(backend: &B, side: usize, weights: DType) -> Result<f64> {
    let activations = backend.activation_dtype(weights);
    let random = |dtype, seed| -> Result<B::Tensor> {
        let mut tensor = backend.alloc(&[side, side], dtype)?;
        backend.fill_random(&mut tensor, seed, 0.1).map(|()| tensor)
    };
    let (x, w) = (random(activations, 1)?, random(weights, 2)?);
    let mut out = backend.alloc(&[side, side], activations)?;
    let mut burst = |products: usize| -> Result<f64> {
        backend.synchronize()?;
        let start = Instant::now();
        for _ in 0..products {
            let (x, w, out) = (Mat::new(&x), Mat::new(&w), MatMut::new(&mut out));
            let product = Matmul { x, w, out, accumulate: false, layout: WeightLayout::OutIn };
            backend.matmul_into(product.check()?)?;
        }
        backend.synchronize()?;
        Ok(start.elapsed().as_secs_f64().max(1e-9) / products as f64)
    };
    // The first loads what the others use.
    burst(1)?;
    let mut best = burst(1)?;
    let products = (BURST / best).ceil().clamp(1.0, 64.0) as usize;
    for _ in 0..BURSTS {
        sleep(REST);
        best = burst(products)?.min(best);
    }
    Ok(best)
}

/// Operations that a prompt of so many tokens takes:
///
/// ```text
/// 2 · (tokens · (n_layers · qkv + (n_layers − 1) · rest) + rest + vocab_size · hidden_size)
///     + 4 · n_heads · head_dim · ((n_layers − 1) · Σ visible(token) + visible(last token))
///
/// qkv  = hidden_size · head_dim · (n_heads + 2 · n_kv_heads)
/// rest = hidden_size · (n_heads · head_dim + 3 · intermediate_size)
/// ```
///
/// Of the last layer all tokens leave keys and values; only the last goes through the rest of it and through `lm_head`, since
/// nothing looks at the others. A token sees itself and those before it, as far as the sliding window reaches.
pub(crate) fn prompt_flops(shape: &ModelShape, tokens: usize) -> f64 {
    let [hidden, layers, vocab] = [shape.hidden_size, shape.n_layers, shape.vocab_size].map(|n| n as f64);
    let [heads, kv_heads] = [shape.n_heads, shape.n_kv_heads].map(|n| (n * shape.head_dim) as f64);
    let window = shape.sliding_window.unwrap_or(tokens).min(tokens) as f64;
    let tokens = tokens as f64;
    let qkv = hidden * (heads + 2.0 * kv_heads);
    let rest = hidden * (heads + 3.0 * shape.intermediate_size as f64);
    let weights = tokens * (layers * qkv + (layers - 1.0) * rest) + rest + vocab * hidden;
    let visible = window * (window + 1.0) / 2.0 + (tokens - window) * window;
    2.0 * weights + 4.0 * heads * ((layers - 1.0) * visible + window)
}

#[cfg(test)]
mod tests {
    use torchless::CpuBackend;

    use super::*;

    #[test]
    fn a_prompt_of_mistral_7b_takes_29_tflop() {
        let shape = ModelShape::named("mistral-7b").unwrap();
        // Weights: 32 · 25 165 824 of queries, keys and values and 31 · 192 937 984 others for each token; 192 937 984 and
        // 131 072 000 for the last. Positions: 31 · 2 098 176 + 2048, with 16 384 operations each.
        let weights = 2048_u64 * 6_786_383_872 + 324_009_984;
        let expected = 2 * weights + 16_384 * 65_045_504;
        assert_eq!(expected, 28_863_381_897_216);
        assert_eq!(prompt_flops(&shape, 2048), expected as f64);
    }

    #[test]
    fn a_window_hides_what_lies_before_it() {
        let windowed = |tokens, window| {
            let shape = ModelShape::named("mistral-7b").unwrap();
            prompt_flops(&ModelShape { sliding_window: window, ..shape }, tokens)
        };
        // Tokens 0 to 3 see 1, 2, 2 and 2 positions instead of 1, 2, 3 and 4.
        assert_eq!(windowed(4, None) - windowed(4, Some(2)), 16_384.0 * (31.0 * 3.0 + 2.0));
        assert_eq!(windowed(4, Some(4)), windowed(4, None));
        assert_eq!(windowed(4, Some(9)), windowed(4, None));
    }

    #[test]
    fn the_peak_is_measured_in_every_type() {
        let backend = CpuBackend::new();
        for dtype in DType::FLOATS {
            let seconds = product_seconds(&backend, 64, dtype).unwrap();
            assert!(seconds > 0.0 && seconds < 1.0, "{dtype}: {seconds}");
        }
        assert_eq!(backend.memory().in_use, 0);
    }
}
