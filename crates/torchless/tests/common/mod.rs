//! What the tests on a GPU share.

use std::sync::{Arc, OnceLock};

use torchless::{
    Backend, BackendPreference, Config, CudaBackend, CudaBackendBuilder, DType, EstimateRequest,
    GenerateOptions, KernelBackend, LoadOptions, Model, ModelShape, WeightDtype, init_backend,
};

pub(crate) const FOLDER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare");

pub(crate) fn cpu() -> Backend {
    init_backend(BackendPreference::Cpu).unwrap()
}

/// Scattered bits, NaNs among them: a conversion on the way would show.
pub(crate) fn pattern(shape: &[usize], dtype: DType) -> Vec<u8> {
    let len = dtype.bytes(shape.iter().product()).unwrap();
    (0..len).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 7) as u8).collect()
}

/// A backend of its own, on a context that lives as long as the process: making one takes longer than a model.
pub(crate) fn made(with: impl Fn(CudaBackendBuilder) -> CudaBackendBuilder) -> CudaBackend {
    static CONTEXT: OnceLock<CudaBackend> = OnceLock::new();
    CONTEXT.get_or_init(|| CudaBackend::new().unwrap());
    with(CudaBackend::builder()).build().unwrap()
}

pub(crate) fn ids(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| i.wrapping_mul(7919) % 32_000).collect()
}

pub(crate) fn generate(tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: tokens, ignore_eos: true, ..GenerateOptions::default() }
}

/// A model of this shape with random weights.
pub(crate) fn random<B: KernelBackend>(
    backend: B,
    shape: ModelShape,
    [dtype, kv_dtype]: [DType; 2],
    chunk: usize,
) -> Model<B> {
    let (dtype, kv_dtype, prefill_chunk) = (Some(dtype), Some(kv_dtype), Some(chunk));
    let options = LoadOptions { dtype, kv_dtype, prefill_chunk, ..LoadOptions::default() };
    Model::random(&Arc::new(backend), Config::from_shape(shape), 1, &options).unwrap()
}

/// A prompt of this many tokens, and an answer of so many.
pub(crate) fn answer(model: &Model<CudaBackend>, context: usize, tokens: usize, answer: usize) {
    let vocab = model.config().shape.vocab_size as u32;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * 7919 % vocab).collect();
    let options = GenerateOptions { max_tokens: answer, ignore_eos: true, ..GenerateOptions::default() };
    let mut session = model.session(context).unwrap();
    let answered = session
        .generate_ids(&ids, &options)
        .unwrap()
        .inspect(|token| assert!(token.is_ok(), "{token:?}"))
        .count();
    assert_eq!(answered, answer);
}

/// Mistral-7B with so many layers.
pub(crate) fn mistral(n_layers: usize) -> ModelShape {
    ModelShape { n_layers, ..ModelShape::named("mistral-7b").unwrap() }
}

pub(crate) fn request<'s>(
    shape: &'s ModelShape,
    [dtype, kv_dtype]: [WeightDtype; 2],
    context: usize,
    chunk: usize,
) -> EstimateRequest<'s> {
    let activation_bytes = dtype.bytes() as usize;
    EstimateRequest { shape, dtype, kv_dtype, context, batch: 1, prefill_chunk: chunk, activation_bytes }
}
