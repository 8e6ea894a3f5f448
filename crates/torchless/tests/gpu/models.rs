//! Whole models on a GPU, against the f64 reference and against each other.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use conformance::decoder::cases::{Logits, Settings, Stored, some};
use torchless::{
    Backend, Config, CudaBackend, CudaBackendBuilder, DType, FinishReason, GenerateOptions, KernelBackend,
    LoadOptions, Model, ModelShape, SampleParams, Session,
};

use crate::golden_texts;

/// See [`conformance::decoder::cases::Runner`].
fn run(
    backend: CudaBackend,
    stored: Stored<'_>,
    settings: Settings,
    ids: &[u32],
) -> Result<[Logits; 3], String> {
    let path = tempfile::tempdir().unwrap();
    stored.write(path.path()).unwrap();
    let Settings { dtype, cache, chunk, context, first } = settings;
    let (dtype, kv_dtype, prefill_chunk) = (Some(dtype), Some(cache), Some(chunk));
    let options = LoadOptions { dtype, kv_dtype, prefill_chunk, ..LoadOptions::default() };
    let model = Model::load(&Arc::new(backend), path.path(), &options).map_err(|e| e.to_string())?;
    let all: Vec<usize> = (first..ids.len()).collect();
    let session = || model.session(context).map_err(|e| e.to_string());
    let batch = |wanted: &[usize]| session()?.logits(ids, wanted).map_err(|e| e.to_string());
    let mut stepped = session()?;
    stepped.logits(&ids[..first], &[]).map_err(|e| e.to_string())?;
    let step = |id: &u32| stepped.step_logits(*id).map_err(|e| e.to_string());
    Ok([batch(&all)?, ids[first..].iter().map(step).collect::<Result<_, _>>()?, batch(&some(ids.len()))?])
}

mod fast {
    use super::*;
    conformance::decoder_suite!(
        &|stored, settings, ids| run(made(|b| b), stored, settings, ids),
        ignore = "needs an NVIDIA GPU"
    );
}

mod without_blas {
    use super::*;
    conformance::decoder_suite!(
        &|stored, settings, ids| run(made(|b| b.blas(false)), stored, settings, ids),
        ignore = "needs an NVIDIA GPU"
    );
}

mod portable {
    use super::*;
    conformance::decoder_suite!(
        &|stored, settings, ids| run(made(|b| b.kernel_target((5, 0)).blas(false)), stored, settings, ids),
        ignore = "needs an NVIDIA GPU"
    );
}

mod compute_80 {
    use super::*;
    conformance::decoder_suite!(
        &|stored, settings, ids| run(made(|b| b.kernel_target((8, 0)).blas(false)), stored, settings, ids),
        ignore = "needs an NVIDIA GPU"
    );
}

/// A backend of its own, on a context that lives as long as the process: making one takes longer than a model.
pub(crate) fn made(with: impl Fn(CudaBackendBuilder) -> CudaBackendBuilder) -> CudaBackend {
    static CONTEXT: OnceLock<CudaBackend> = OnceLock::new();
    CONTEXT.get_or_init(|| CudaBackend::new().unwrap());
    with(CudaBackend::builder()).build().unwrap()
}

/// What an older card would run.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn older_targets_write_the_golden_texts() {
    let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
    for target in [(5, 0), (8, 0)] {
        let load = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::default() };
        let backend = Arc::new(Backend::from(made(|b| b.kernel_target(target))));
        let model = Model::load(&backend, crate::FOLDER, &load).unwrap();
        for (prompt, text) in golden_texts() {
            let mut session = model.session(256).unwrap();
            let answer: String =
                session.generate(&prompt, &options).unwrap().map(|token| token.unwrap().text).collect();
            assert_eq!(prompt + &answer, text, "{target:?}");
        }
    }
}

/// Mistral-7B with fewer layers and random weights, in bf16.
fn mistral(backend: CudaBackend, n_layers: usize) -> Model<CudaBackend> {
    let shape = ModelShape { n_layers, ..ModelShape::named("mistral-7b").unwrap() };
    Model::random(&Arc::new(backend), Config::from_shape(shape), 1, &LoadOptions::default()).unwrap()
}

pub(crate) fn ids(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| i.wrapping_mul(7919) % 32_000).collect()
}

pub(crate) fn generate(tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: tokens, ignore_eos: true, ..GenerateOptions::default() }
}

/// No token waits for a kernel: what an answer launches was loaded with the model.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn an_answer_loads_no_kernels() {
    let by_chance = SampleParams { temperature: 0.8, top_p: 0.9, ..SampleParams::default() };
    for (dtype, blas) in DType::FLOATS.into_iter().flat_map(|dtype| [(dtype, true), (dtype, false)]) {
        let backend = Arc::new(made(|b| b.blas(blas)));
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
        let model = Model::load(&backend, crate::FOLDER, &options).unwrap();
        let loaded = backend.loaded_kernels();
        let mut session = model.session(400).unwrap();
        for tokens in [1, 7, 100, 300] {
            for sampling in [SampleParams::default(), by_chance] {
                session.truncate(0);
                let prompt: Vec<u32> = ids(tokens).iter().map(|id| id % 1000).collect();
                let options = GenerateOptions { sampling, ..generate(4) };
                session.generate_ids(&prompt, &options).unwrap().for_each(|token| drop(token.unwrap()));
            }
        }
        let launched = backend.launched_kernels();
        assert_eq!(backend.loaded_kernels(), loaded, "{dtype}, cuBLAS {blas}: {launched:?}");
        assert!(["argmax", "sample"].iter().all(|kernel| launched.contains(kernel)), "{launched:?}");
    }
}

/// Tokens per second of decoding and of a prompt of 2048 tokens: the best of some runs.
fn rates(model: &Model<CudaBackend>) -> [f64; 2] {
    let mut session = model.session(2100).unwrap();
    let mut best = [0f64; 2];
    for _ in 0..5 {
        session.truncate(0);
        let start = Instant::now();
        session.generate_ids(&ids(2048), &generate(1)).unwrap().for_each(|token| drop(token.unwrap()));
        best[1] = best[1].max(2048.0 / start.elapsed().as_secs_f64());
        session.truncate(512);
        let mut generation = session.generate_ids(&[], &generate(200)).unwrap();
        generation.by_ref().for_each(|token| drop(token.unwrap()));
        best[0] = best[0].max(generation.stats().decode_rate());
    }
    best
}

/// Without the library a step is the same, and a prompt half as fast at least.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_driver_alone_is_nearly_as_fast() {
    let with = rates(&mistral(made(|b| b), 8));
    let without = rates(&mistral(made(|b| b.blas(false)), 8));
    println!("decode and prompt, tok/s: {with:.0?} with cuBLAS, {without:.0?} without");
    assert!(without[0] >= 0.97 * with[0], "decode: {without:?} and {with:?}");
    assert!(without[1] >= 0.5 * with[1], "prompt: {without:?} and {with:?}");
}

/// To the last position of the longest context.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_longest_context_can_be_filled() {
    let shape = ModelShape { n_layers: 2, ..ModelShape::named("mistral-7b").unwrap() };
    for dtype in [DType::BF16, DType::F16] {
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
        let backend = Arc::new(made(|b| b));
        let model = Model::random(&backend, Config::from_shape(shape.clone()), 1, &options).unwrap();
        let mut session = model.session(32_768).unwrap();
        let mut generation = session.generate_ids(&ids(32_700), &generate(1000)).unwrap();
        let answered = generation.by_ref().inspect(|token| assert!(token.is_ok(), "{token:?}")).count();
        assert_eq!((answered, generation.finish_reason()), (68, Some(FinishReason::Context)));
    }
}

/// Short prompts of about a length are issued at first, then captured and replayed; all give the same bits.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn short_prompts_are_captured_and_give_the_same_bits() {
    for (dtype, cache) in [(DType::BF16, DType::BF16), (DType::F32, DType::F32), (DType::BF16, DType::F16)] {
        let backend = Arc::new(made(|b| b));
        let options = LoadOptions { dtype: Some(dtype), kv_dtype: Some(cache), ..LoadOptions::default() };
        let model = Model::load(&backend, crate::FOLDER, &options).unwrap();
        let mut session = model.session(300).unwrap();
        for (tokens, bucket) in [(1, 1), (3, 16), (16, 16), (33, 48), (100, 128), (128, 128)] {
            let ids: Vec<u32> = ids(tokens + 3).iter().map(|id| id % 1000).collect();
            let mut once = || {
                let before = backend.counters();
                session.truncate(0);
                let mut rows = session.logits(&ids[..tokens], &(0..tokens).collect::<Vec<_>>()).unwrap();
                let after = backend.counters();
                // What padding must not have spoilt.
                rows.extend(ids[tokens..].iter().map(|id| session.step_logits(*id).unwrap()));
                (rows, after.captures - before.captures, after.replays - before.replays)
            };
            let runs: Vec<_> = (0..6).map(|_| once()).collect();
            assert!(runs.iter().all(|run| run.0 == runs[0].0), "{dtype}, {cache}, {tokens} tokens");
            let counted: Vec<_> = runs.iter().map(|run| (run.1, run.2)).collect();
            let want = match tokens == bucket && bucket > 1 {
                true => [(0, 1); 6],
                false => [(0, 0), (0, 0), (0, 0), (1, 0), (0, 1), (0, 1)],
            };
            assert_eq!(counted, want, "{dtype}, {cache}, {tokens} tokens");
        }
    }
}

/// Milliseconds to the first token of short prompts, issued and replayed.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn captured_prompts_are_not_slower() {
    // Whatever else runs makes some slow, and none fast.
    let best = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::INFINITY, f64::min);
    let small = ModelShape::named("llama-3.2-1b").unwrap();
    for shape in [small, ModelShape::named("mistral-7b").unwrap()] {
        let backend = Arc::new(made(|b| b));
        let model =
            Model::random(&backend, Config::from_shape(shape.clone()), 1, &LoadOptions::default()).unwrap();
        let first = |session: &mut Session<CudaBackend>, tokens| {
            session.truncate(0);
            backend.synchronize().unwrap();
            let start = Instant::now();
            session.generate_ids(&ids(tokens), &generate(1)).unwrap().for_each(|token| drop(token.unwrap()));
            start.elapsed().as_secs_f64() * 1e3
        };
        let mut captured = model.session(1000).unwrap();
        for tokens in [1, 7, 16, 20, 50, 100, 128, 200] {
            let again = (0..4).map(|_| first(&mut captured, tokens)).fold(0.0, f64::max);
            let replayed = best(&mut (0..15).map(|_| first(&mut captured, tokens)));
            let issued = best(&mut (0..15).map(|_| first(&mut model.session(1000).unwrap(), tokens)));
            println!(
                "{} layers, {tokens} tokens: issued {issued:.3} ms, slowest of the first {again:.3}, replayed {replayed:.3}",
                shape.n_layers
            );
            assert!(replayed < 1.1 * issued, "{tokens} tokens: {replayed} ms replayed, {issued} issued");
        }
    }
}
