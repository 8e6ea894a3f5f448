//! Whole models on a GPU, against the f64 reference and against each other.

use std::sync::Arc;

use conformance::decoder::cases::{Logits, Settings, Stored, some};
use torchless::{
    Backend, Config, CudaBackend, DType, FinishReason, GenerateOptions, KernelBackend, LoadOptions, Model,
    ModelShape, SampleParams,
};

use crate::common::{generate, ids, made};
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
