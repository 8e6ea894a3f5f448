const MIB: f64 = 1_048_576.0;
const F32_BYTES: f64 = 4.0;

/// MiB that the weights of a model take in f32 with untied embeddings.
///
/// With `head_dim = ⌊hidden_size / n_heads⌋` (0 when there are no heads), `q = n_heads · head_dim`
/// and `kv = n_kv_heads · head_dim`, the number of parameters is
///
/// ```text
/// 2·vocab·hidden + n_layers·(2·hidden·q + 2·hidden·kv + 3·hidden·intermediate + 2·hidden) + hidden
/// ```
///
/// and the result is four bytes of each, divided by 2²⁰. The arithmetic is in f64: exact up to 2⁵³
/// parameters, rounded beyond, and finite for every input.
///
/// [`EstimateRequest`](crate::EstimateRequest) also counts dtypes, tied embeddings, a `head_dim` of
/// its own, the KV cache and the activations.
///
/// ```
/// let mib = memory_estimate::estimate_model_memory_mb(4096, 14336, 32, 32000, 32, 8);
/// assert_eq!(format!("{mib:.1}"), "27625.0");
/// ```
#[must_use]
pub fn estimate_model_memory_mb(
    hidden_size: usize,
    intermediate_size: usize,
    n_layers: usize,
    vocab_size: usize,
    n_heads: usize,
    n_kv_heads: usize,
) -> f64 {
    let head_dim = hidden_size.checked_div(n_heads).unwrap_or(0) as f64;
    let q = n_heads as f64 * head_dim;
    let kv = n_kv_heads as f64 * head_dim;
    let hidden = hidden_size as f64;
    let per_layer = hidden * (2.0 * q + 2.0 * kv + 3.0 * intermediate_size as f64 + 2.0);
    let parameters = 2.0 * vocab_size as f64 * hidden + n_layers as f64 * per_layer + hidden;
    parameters * F32_BYTES / MIB
}
