//! Sessions of the small Shakespeare model on the CPU.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use backend_api::ops::SampleParams;
use backend_api::{DType, Error, KernelBackend, bf16};
use backend_cpu::CpuBackend;
use decoder::{Config, FinishReason, GenerateOptions, LoadOptions, Model, ModelBytes};
use memory_estimate::{EstimateRequest, ModelShape, WeightDtype};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare"))
}

fn load(options: &LoadOptions) -> Model<CpuBackend> {
    Model::load(&Arc::new(CpuBackend::new()), folder(), options).unwrap()
}

/// The model, loaded once for all tests that only read it.
fn model() -> &'static Model<CpuBackend> {
    static MODEL: OnceLock<Model<CpuBackend>> = OnceLock::new();
    MODEL.get_or_init(|| load(&LoadOptions::default()))
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..GenerateOptions::default() }
}

fn sampled(seed: u64) -> GenerateOptions {
    let sampling = SampleParams { temperature: 0.9, top_p: 0.95, seed, ..SampleParams::default() };
    GenerateOptions { sampling, max_tokens: 24, ..GenerateOptions::default() }
}

fn text(prompt: &str, options: &GenerateOptions) -> (String, Option<FinishReason>) {
    let mut session = model().session(256).unwrap();
    let mut generation = session.generate(prompt, options).unwrap();
    let text = generation.by_ref().map(|t| t.unwrap().text).collect();
    (text, generation.finish_reason())
}

fn largest_gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_greedy_text_of_the_reference_is_reproduced() {
    let golden = std::fs::read_to_string(folder().join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    for i in 0..4 {
        let of = |key: &str| golden[i.to_string()][key].as_str().unwrap();
        let (answer, finish) = text(of("prompt"), &options(64));
        assert_eq!(format!("{}{answer}", of("prompt")), of("text"));
        assert_eq!(finish, Some(FinishReason::Length));
    }
}

#[test]
fn chunks_and_single_tokens_give_the_same_logits() {
    let ids: Vec<u32> = (0..70).map(|i| (i * 37) % 1000 + 10).collect();
    let last = [ids.len() - 1];
    // In f32, so that no key or value is rounded differently for a difference in the last bit.
    let with = |chunk| {
        load(&LoadOptions { dtype: Some(DType::F32), prefill_chunk: Some(chunk), ..LoadOptions::default() })
    };
    let whole = with(512).session(128).unwrap().logits(&ids, &last).unwrap();
    for chunk in [1, 7, 64] {
        let parts = with(chunk).session(128).unwrap().logits(&ids, &last).unwrap();
        let gap = largest_gap(&whole[0], &parts[0]);
        assert!(gap < 2e-5, "chunk {chunk}: {gap}");
    }
    let mut session = with(512).session(128).unwrap();
    let single: Vec<_> = ids.iter().map(|id| session.step_logits(*id).unwrap()).collect();
    let gap = largest_gap(&whole[0], &single[ids.len() - 1]);
    assert!(gap < 2e-5, "single tokens: {gap}");
}

#[test]
fn a_conversation_continues_without_reading_its_past() {
    let mut session = model().session(256).unwrap();
    let first: Vec<_> = session.generate("ROMEO:", &options(8)).unwrap().map(|t| t.unwrap().id).collect();
    let past = session.tokens().len();
    assert_eq!(session.cached(), past - 1, "the last answer token is not fed yet");
    let mut generation = session.generate("\n\nJULIET:", &options(8)).unwrap();
    let second: Vec<_> = generation.by_ref().map(|t| t.unwrap().id).collect();
    let fed = generation.stats().prompt_tokens;
    let all = session.tokens().to_vec();
    assert_eq!(fed, all.len() - second.len() - (past - 1));

    let mut fresh = model().session(256).unwrap();
    let prompt = &all[..all.len() - second.len()];
    let again: Vec<_> = fresh.generate_ids(prompt, &options(8)).unwrap().map(|t| t.unwrap().id).collect();
    assert_eq!(second, again, "as if the whole conversation had been read at once");
    assert_eq!(first.len(), 8);
}

#[test]
fn truncating_goes_back() {
    let mut session = model().session(256).unwrap();
    let first: Vec<_> = session.generate("KING", &options(6)).unwrap().map(|t| t.unwrap().id).collect();
    let prompt = session.tokens().len() - first.len();
    session.truncate(prompt);
    let again: Vec<_> = session.generate("", &options(6)).unwrap().map(|t| t.unwrap().id).collect();
    assert_eq!(first, again);
}

#[test]
fn seeds_decide_what_chance_gives() {
    let of = |seed| text("ROMEO:", &sampled(seed)).0;
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    let top_1 = GenerateOptions { sampling: SampleParams { top_k: 1, ..sampled(1).sampling }, ..sampled(1) };
    assert_eq!(text("ROMEO:", &top_1), text("ROMEO:", &options(24)));
}

#[test]
fn a_repetition_penalty_counts_the_prompt_and_the_answer() {
    let strong = SampleParams { repetition_penalty: 1e3, ..SampleParams::default() };
    let mut session = model().session(256).unwrap();
    let penalized = GenerateOptions { sampling: strong, ..options(60) };
    let prompt = model().tokenizer().unwrap().encode("ROMEO:\nBut soft").unwrap();
    let ids: Vec<_> = session.generate_ids(&prompt, &penalized).unwrap().map(|t| t.unwrap().id).collect();
    let mut seen = prompt;
    for id in ids {
        assert!(!seen.contains(&id), "{id} is repeated");
        seen.push(id);
    }
}

#[test]
fn stop_texts_end_the_answer_and_are_not_shown() {
    let (whole, _) = text("KING RICHARD III:\n", &options(64));
    let stop = GenerateOptions { stop: vec!["not be born".into(), "zzz".into()], ..options(64) };
    let (cut, finish) = text("KING RICHARD III:\n", &stop);
    assert_eq!(cut, whole[..whole.find("not be born").unwrap()]);
    assert_eq!(finish, Some(FinishReason::Stop));
    let empty = GenerateOptions { stop: vec![String::new()], ..options(4) };
    assert!(matches!(model().session(64).unwrap().generate("a", &empty), Err(Error::Argument { .. })));
}

/// The model's files, with end-of-text ids.
fn files(eos: &str) -> ModelBytes {
    let read = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let generation = format!("{{\"eos_token_id\": {eos}}}");
    ModelBytes {
        config: read("config.json").into(),
        generation_config: Some(generation.into_bytes().into()),
        tokenizer: read("tokenizer.json").into(),
        weights: read("model.safetensors").into(),
    }
}

fn from_files(files: &ModelBytes) -> Model<CpuBackend> {
    Model::from_bytes(&Arc::new(CpuBackend::new()), files, &LoadOptions::default()).unwrap()
}

/// The model with another first element in one of its bf16 weights.
fn with_element(name: &str, value: f32) -> Model<CpuBackend> {
    let mut files = files("[1, 2]");
    let header_len = u64::from_le_bytes(files.weights[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&files.weights[8..8 + header_len]).unwrap();
    assert_eq!(header[name]["dtype"], "BF16");
    let at = 8 + header_len + header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    files.weights.to_mut()[at..at + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes());
    from_files(&files)
}

#[test]
fn any_of_several_eos_ids_ends_the_text_and_shows_nothing() {
    let mut session = model().session(64).unwrap();
    let greedy: Vec<_> = session.generate("ROMEO:", &options(12)).unwrap().map(|t| t.unwrap()).collect();
    let eos = greedy[7].id;
    let at = greedy.iter().position(|t| t.id == eos).unwrap();
    let model = from_files(&files(&format!("[1, {eos}]")));
    let mut session = model.session(64).unwrap();
    let mut generation = session.generate("ROMEO:", &options(12)).unwrap();
    let tokens: Vec<_> = generation.by_ref().map(|t| t.unwrap()).collect();
    assert_eq!(generation.finish_reason(), Some(FinishReason::Eos));
    assert_eq!(tokens.len(), at + 1);
    let shown: String = tokens.iter().map(|t| t.text.as_str()).collect();
    assert_eq!(shown, greedy[..at].iter().map(|t| t.text.as_str()).collect::<String>());
    let on = GenerateOptions { ignore_eos: true, ..options(12) };
    assert_eq!(model.session(64).unwrap().generate("ROMEO:", &on).unwrap().count(), 12);
}

#[test]
fn the_context_bounds_prompt_and_answer() {
    let mut session = model().session(16).unwrap();
    let mut generation = session.generate("ROMEO:", &options(100)).unwrap();
    let n = generation.by_ref().inspect(|t| assert!(t.is_ok())).count();
    assert_eq!(generation.finish_reason(), Some(FinishReason::Context));
    assert_eq!(session.tokens().len(), 16);
    assert!(n > 0 && n < 16);
    assert!(matches!(session.generate("x", &options(1)), Err(Error::ContextFull { context: 16, .. })));

    let mut session = model().session(16).unwrap();
    let long = "word ".repeat(50);
    assert!(matches!(session.generate(&long, &options(1)), Err(Error::ContextFull { .. })));
    assert!(session.tokens().is_empty(), "a refused prompt leaves nothing behind");
    for context in [0, 1025, usize::MAX] {
        assert!(matches!(model().session(context), Err(Error::Argument { name: "context", .. })));
    }
}

#[test]
fn wrong_arguments_are_named() {
    let mut session = model().session(64).unwrap();
    let name = |e: Error| match e {
        Error::Argument { name, .. } => name,
        other => panic!("{other}"),
    };
    assert_eq!(name(session.generate_ids(&[5, 1024], &options(1)).map(drop).unwrap_err()), "token id");
    assert_eq!(name(session.generate_ids(&[], &options(1)).map(drop).unwrap_err()), "prompt");
    let nan = SampleParams { temperature: f32::NAN, ..SampleParams::default() };
    let nan = GenerateOptions { sampling: nan, ..options(1) };
    assert_eq!(name(session.generate("a", &nan).map(drop).unwrap_err()), "temperature");
    assert_eq!(name(session.logits(&[5], &[1]).map(drop).unwrap_err()), "wanted");
    assert!(session.tokens().is_empty(), "refused ids are not remembered");
    let options = LoadOptions { prefill_chunk: Some(0), ..LoadOptions::default() };
    let loaded = Model::load(&Arc::new(CpuBackend::new()), folder(), &options);
    assert_eq!(name(loaded.map(drop).unwrap_err()), "prefill_chunk");
}

#[test]
fn cancelling_ends_generation_and_loading() {
    let cancel = Arc::new(AtomicBool::new(false));
    let options = GenerateOptions { cancel: Some(cancel.clone()), ..options(64) };
    let mut session = model().session(128).unwrap();
    let mut generation = session.generate("ROMEO:", &options).unwrap();
    assert!(generation.next().is_some());
    cancel.store(true, Relaxed);
    assert!(generation.next().is_none());
    assert_eq!(generation.finish_reason(), Some(FinishReason::Cancelled));
    let options = LoadOptions { cancel: Some(cancel), ..LoadOptions::default() };
    assert!(matches!(Model::load(&Arc::new(CpuBackend::new()), folder(), &options), Err(Error::Cancelled)));
}

#[test]
fn progress_reaches_the_total() {
    let done = Arc::new(AtomicU64::new(0));
    let total = Arc::new(AtomicU64::new(0));
    let (d, t) = (done.clone(), total.clone());
    let progress = move |n, of| {
        d.fetch_max(n, Relaxed);
        t.store(of, Relaxed);
    };
    let model = load(&LoadOptions { progress: Some(Arc::new(progress)), ..LoadOptions::default() });
    assert_eq!(done.load(Relaxed), total.load(Relaxed));
    assert_eq!(model.load_report().bytes, done.load(Relaxed));
}

#[test]
fn a_step_allocates_nothing_and_only_its_id_comes_back() {
    let model = load(&LoadOptions::default());
    let backend = model.backend().clone();
    for sampling in [SampleParams::default(), sampled(3).sampling] {
        let mut session = model.session(128).unwrap();
        let options = GenerateOptions { sampling, ..options(20) };
        let mut generation = session.generate("ROMEO:", &options).unwrap();
        generation.next().unwrap().unwrap();
        let before = backend.counters();
        for _ in 0..10 {
            generation.next().unwrap().unwrap();
        }
        let after = backend.counters();
        assert_eq!(after.allocations, before.allocations);
        assert_eq!(after.writes, before.writes);
        assert_eq!(after.reads, before.reads + 10);
        assert!(after.launches > before.launches);
    }
}

#[test]
fn weights_that_overflow_are_an_error_not_a_text() {
    let damaged = with_element("model.norm.weight", f32::NAN);
    let overflowing = with_element("model.layers.0.input_layernorm.weight", 3e38);
    for model in [damaged, overflowing] {
        for sampling in [SampleParams::default(), sampled(1).sampling] {
            let mut session = model.session(32).unwrap();
            let options = GenerateOptions { sampling, ..options(8) };
            let mut generation = session.generate_ids(&[5, 6, 7], &options).unwrap();
            let first = generation.next();
            assert!(matches!(first, Some(Err(Error::NonFinite { position: 2 }))), "{first:?}");
            assert!(generation.next().is_none());
            assert_eq!(generation.finish_reason(), None);
            assert_eq!(session.tokens(), [5, 6, 7]);
        }
    }
}

#[test]
fn a_random_model_gives_finite_logits_and_has_no_tokenizer() {
    let backend = Arc::new(CpuBackend::new());
    let shape = ModelShape::named("tiny-shakespeare").unwrap();
    let config = Config { rms_norm_eps: 0.0, ..Config::from_shape(shape) };
    let options = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::default() };
    let model = Model::random(&backend, config, 1, &options).unwrap();
    let mut session = model.session(32).unwrap();
    let full = session.fill_random(usize::MAX, 9);
    assert!(matches!(full, Err(Error::ContextFull { needed: usize::MAX, .. })), "{full:?}");
    session.fill_random(4, 9).unwrap();
    let finite = session.generate_ids(&[1], &self::options(3)).unwrap().all(|t| t.is_ok());
    assert!(finite, "random weights give finite logits");
    assert!(model.tokenizer().is_none());
    assert!(matches!(session.generate("text", &self::options(1)), Err(Error::Unsupported { .. })));
}

/// The estimate of what one session of `model` holds.
fn estimate(model: &Model<CpuBackend>, context: usize) -> u64 {
    let dtype = |d| match d {
        DType::F32 => WeightDtype::F32,
        DType::F16 => WeightDtype::F16,
        _ => WeightDtype::Bf16,
    };
    let request = EstimateRequest {
        shape: &model.config().shape,
        dtype: dtype(model.dtype()),
        kv_dtype: dtype(model.kv_dtype()),
        context,
        batch: 1,
        prefill_chunk: model.prefill_chunk(),
        activation_bytes: 4,
    };
    request.estimate().unwrap().total()
}

#[test]
fn the_estimate_is_the_high_water_mark() {
    for (name, dtype, kv_dtype, context, chunk) in [
        ("tiny-shakespeare", DType::F32, DType::F32, 1024, 512),
        ("tiny-shakespeare", DType::BF16, DType::F16, 100, 512),
        ("tiny-shakespeare", DType::F16, DType::F16, 777, 33),
    ] {
        for tied in [false, true] {
            let mut shape = ModelShape::named(name).unwrap();
            shape.tie_word_embeddings = tied;
            let options = LoadOptions {
                dtype: Some(dtype),
                kv_dtype: Some(kv_dtype),
                prefill_chunk: Some(chunk),
                ..LoadOptions::default()
            };
            let backend = Arc::new(CpuBackend::new());
            let model = Model::random(&backend, Config::from_shape(shape), 5, &options).unwrap();
            let mut session = model.session(context).unwrap();
            assert_eq!(session.generate_ids(&[1, 2, 3], &self::options(5)).unwrap().count(), 5);
            let (want, got) = (estimate(&model, context) as f64, backend.memory().high_water as f64);
            assert!((want / got - 1.0).abs() < 0.01, "{name} {dtype}: estimated {want}, held {got}");
            drop((session, model));
            assert_eq!(backend.memory().in_use, 0);
        }
    }
}

#[test]
fn one_model_serves_many_threads() {
    let alone: Vec<_> = (0..4).map(|seed| text("ROMEO:", &sampled(seed)).0).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let spawn = |seed| scope.spawn(move || text("ROMEO:", &sampled(seed)).0);
        let threads: Vec<_> = (0..4).map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}
