//! Times, and memory of the whole device: what holds only where nothing else runs. The tests of this program wait for each
//! other, and cargo runs one program after the other.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod loading;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use torchless::{CudaBackend, DType, KernelBackend, ModelShape, Session, WeightDtype};

use common::{answer, generate, ids, made, mistral, random, request};

/// Held by the test that runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tokens per second of decoding at depth 512 and of a prompt of so many tokens: the best of some runs.
fn rates(backend: CudaBackend, n_layers: usize, dtype: DType, prompt: usize) -> [f64; 2] {
    let model = random(backend, mistral(n_layers), [dtype; 2], 2048);
    let mut session = model.session(prompt.max(1024) + 1).unwrap();
    let mut best = [0f64; 2];
    for _ in 0..5 {
        session.truncate(0);
        let start = Instant::now();
        session.generate_ids(&ids(prompt), &generate(1)).unwrap().for_each(|token| drop(token.unwrap()));
        best[1] = best[1].max(prompt as f64 / start.elapsed().as_secs_f64());
        session.fill_random(512, 1).unwrap();
        let mut generation = session.generate_ids(&[0], &generate(200)).unwrap();
        generation.by_ref().for_each(|token| drop(token.unwrap()));
        best[0] = best[0].max(generation.stats().decode_rate());
    }
    best
}

/// Mistral-7B on an H200; `torchless bench` measures more closely.
#[test]
#[ignore = "needs an NVIDIA H200"]
fn mistral_7b_runs_at_its_targets() {
    let _alone = alone();
    if !made(|b| b).info().name.contains("H200") {
        println!("not an H200: no targets");
        return;
    }
    for (dtype, prompt, least) in [
        (DType::BF16, 512, [285.0, 42e3]),
        (DType::BF16, 2048, [285.0, 46e3]),
        (DType::F16, 512, [285.0, 42e3]),
        (DType::F32, 64, [150.0, 0.0]),
    ] {
        let got = rates(made(|b| b), 32, dtype, prompt);
        println!("{dtype}, decode and prompt of {prompt}: {got:.1?} tok/s, targets {least:?}");
        // Cards and runs differ by as much.
        assert!(got.iter().zip(least).all(|(got, least)| *got >= 0.98 * least), "{dtype}, {prompt}: {got:?}");
    }
}

/// Without the library a step is the same, and a prompt half as fast at least; in f32, where there are no tensor cores, a short
/// one less.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_driver_alone_is_nearly_as_fast() {
    let _alone = alone();
    for (dtype, prompt, least) in [
        (DType::BF16, 16, 0.5),
        (DType::BF16, 64, 0.5),
        (DType::BF16, 512, 0.5),
        (DType::BF16, 2048, 0.5),
        (DType::F16, 2048, 0.5),
        (DType::F32, 64, 0.2),
        (DType::F32, 512, 0.5),
        (DType::F32, 2048, 0.5),
    ] {
        let with = rates(made(|b| b), 8, dtype, prompt);
        let without = rates(made(|b| b.blas(false)), 8, dtype, prompt);
        let shares = [without[0] / with[0], without[1] / with[1]];
        println!(
            "{dtype}, prompt of {prompt}: {without:.0?} of {with:.0?} tok/s without cuBLAS, {shares:.2?}"
        );
        assert!(shares[0] >= 0.97, "decode beside a prompt of {prompt} in {dtype}: {without:?} and {with:?}");
        assert!(shares[1] >= least, "prompt of {prompt} in {dtype}: {without:?} and {with:?}");
    }
}

/// Milliseconds to the first token of short prompts, issued and replayed.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn captured_prompts_are_not_slower() {
    let _alone = alone();
    // Whatever else runs makes some slow, and none fast.
    let best = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::INFINITY, f64::min);
    let small = ModelShape::named("llama-3.2-1b").unwrap();
    for shape in [small, ModelShape::named("mistral-7b").unwrap()] {
        let model = random(made(|b| b), shape.clone(), [DType::BF16; 2], 2048);
        let backend = model.backend();
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

/// Chunks of 2048 tokens at the sizes of Mistral-7B; how many layers there are adds to weights and cache alone.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_prompt_needs_at_most_600_mib_beside_weights_and_cache() {
    let _alone = alone();
    let (shape, context) = (mistral(2), 8192);
    let backend = CudaBackend::new().unwrap();
    let before = backend.memory().free.unwrap();
    let model = random(backend, shape.clone(), [DType::BF16; 2], 2048);
    let exact = request(&shape, [WeightDtype::Bf16; 2], context, 2048).estimate().unwrap();
    let of_model = exact.weights() + exact.kv_cache;
    answer(&model, context, 5000, 20);
    let memory = model.backend().memory();
    let session = model.session(context).unwrap();
    // Of the pool, and of the whole device: kernels, the library and what is reserved for later included.
    let beyond = [memory.high_water - of_model, before - model.backend().memory().free.unwrap() - of_model];
    println!("beside weights and cache: {beyond:?} bytes");
    drop(session);
    assert!(beyond.iter().all(|bytes| *bytes <= 600 << 20), "{beyond:?}");
}
