//! What a backend is told of a model.

use backend_api::{DType, Heads, Workload};

/// Mistral-7B in one type, 4096 positions, prompts by 512 tokens.
pub fn mistral(dtype: DType) -> Workload {
    Workload {
        hidden_size: 4096,
        intermediate_size: 14_336,
        vocab_size: 32_000,
        heads: Heads { n_heads: 32, n_kv_heads: 8, head_dim: 128 },
        window: None,
        weights: dtype,
        cache: dtype,
        activations: dtype,
        context: 4096,
        rows: 512,
    }
}
