//! What a backend says of a decoder before it runs.

use backend_api::{DType, Heads, KernelBackend, Workload};
use memory_estimate::{Accounting, EstimateRequest, ModelShape, WeightDtype};

use crate::Model;
use crate::model::Settings;

/// How the device of a backend accounts for memory: makes an [`EstimateRequest`] an estimate for this backend, with
/// [`EstimateRequest::estimate_on`] and [`EstimateRequest::fit_on`].
#[derive(Debug)]
pub struct OnBackend<'b, B>(pub &'b B);

impl<B: KernelBackend> Accounting for OnBackend<'_, B> {
    fn taken(&self, bytes: u64) -> u64 {
        self.0.taken(bytes)
    }

    fn overhead(&self, request: &EstimateRequest<'_>) -> u64 {
        let weights = dtype(request.dtype);
        let is_narrow = weights.bytes(1) == Some(request.activation_bytes);
        let activations = if is_narrow { weights } else { DType::F32 };
        let types = [weights, dtype(request.kv_dtype), activations];
        self.0.overhead(&workload(request.shape, types, request.context, request.prefill_chunk))
    }
}

fn dtype(dtype: WeightDtype) -> DType {
    match dtype {
        WeightDtype::F16 => DType::F16,
        WeightDtype::Bf16 => DType::BF16,
        _ => DType::F32,
    }
}

/// A shape with the types of weights, cache and activations.
fn workload(
    shape: &ModelShape,
    [weights, cache, activations]: [DType; 3],
    context: usize,
    chunk: usize,
) -> Workload {
    Workload {
        hidden_size: shape.hidden_size,
        intermediate_size: shape.intermediate_size,
        vocab_size: shape.vocab_size,
        heads: Heads { n_heads: shape.n_heads, n_kv_heads: shape.n_kv_heads, head_dim: shape.head_dim },
        window: shape.sliding_window,
        weights,
        cache,
        activations,
        context,
        rows: chunk.min(context),
    }
}

impl Settings {
    /// What the backend is asked to run in a session of this context.
    pub(crate) fn workload<B: KernelBackend>(
        self,
        backend: &B,
        shape: &ModelShape,
        context: usize,
    ) -> Workload {
        let types = [self.dtype, self.kv_dtype, backend.activation_dtype(self.dtype)];
        workload(shape, types, context, self.prefill_chunk)
    }
}

impl<B: KernelBackend> Model<B> {
    /// What the backend is asked to run in a session of this context.
    pub fn workload(&self, context: usize) -> Workload {
        self.settings().workload(&**self.backend(), &self.config().shape, context)
    }
}
