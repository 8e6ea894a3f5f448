//! The facade on a GPU: `cargo test -p torchless -- --ignored`; on a machine with one, `-- --ignored --skip two_gpus`.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod issued;
#[cfg(target_os = "linux")]
#[path = "../maps/mod.rs"]
mod maps;
mod mistral;
mod models;
mod planned;
mod steps;
mod two_gpus;

use std::sync::Arc;

use torchless::{
    Backend, BackendPreference, Counters, CudaBackend, DType, DeviceTensor, Error, GenerateOptions,
    HostTensor, KernelBackend, LoadOptions, Model, Session, UnifiedTensor, init_backend,
};

use common::{FOLDER, cpu, pattern};

fn cuda() -> Backend {
    init_backend(BackendPreference::Cuda).unwrap()
}

fn session<B: KernelBackend>(backend: B, dtype: Option<DType>) -> Session<B> {
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    Model::load(&Arc::new(backend), FOLDER, &options).unwrap().session(256).unwrap()
}

/// Prompt and greedy text of each golden file.
fn golden_texts() -> Vec<(String, String)> {
    let json = std::fs::read(format!("{FOLDER}/golden.json")).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let text = |i: usize, key: &str| all[i.to_string()][key].as_str().unwrap().to_owned();
    (0..4).map(|i| (text(i, "prompt"), text(i, "text"))).collect()
}

fn difference(after: Counters, before: Counters) -> [u64; 3] {
    [after.allocations - before.allocations, after.writes - before.writes, after.reads - before.reads]
}

mod conformance_suite {
    conformance::suite!(super::cuda(), ignore = "needs an NVIDIA GPU");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn cuda_opens_the_driver() {
    let _cuda = cuda();
    let files = maps::files();
    assert!(files.iter().any(|file| file.starts_with("libcuda.so")), "{files:?}");
    assert!(files.iter().any(|file| maps::is_cuda(file)));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_preference_gives_what_it_asks_for() {
    for (preference, kind) in [
        (BackendPreference::Auto, "cuda"),
        (BackendPreference::Cuda, "cuda"),
        (BackendPreference::CudaDevice(0), "cuda"),
        (BackendPreference::Cpu, "cpu"),
    ] {
        let backend = init_backend(preference).unwrap();
        assert_eq!((backend.name(), backend.device().kind(), backend.device().ordinal()), (kind, kind, 0));
    }
    assert!(matches!(init_backend(BackendPreference::CudaDevice(1000)), Err(Error::Unavailable { .. })));
}

fn make(backend: &Backend, shape: &[usize], dtype: DType, bytes: &[u8]) -> UnifiedTensor {
    let fill = |offset: usize, out: &mut [u8]| {
        out.copy_from_slice(&bytes[offset..offset + out.len()]);
        Ok(())
    };
    backend.upload(shape, dtype, &fill).unwrap()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn tensors_move_bit_for_bit_both_ways() {
    let (cpu, gpu) = (cpu(), cuda());
    // A second backend on the same GPU, and each further GPU.
    let gpus = torchless::devices().into_iter().filter(|d| d.backend == "cuda" && d.is_usable());
    let others: Vec<_> = gpus.map(|d| init_backend(d.preference).unwrap()).collect();
    assert!(!others.is_empty());
    for dtype in DType::ALL {
        // The last one takes several parts of the staging, and the parts end at odd places.
        for shape in [&[][..], &[0, 5], &[1], &[3, 7], &[257, 129], &[4099, 4097]] {
            let bytes = pattern(shape, dtype);
            let check = |tensor: &UnifiedTensor, on: &Backend| {
                assert_eq!((tensor.shape(), tensor.dtype(), tensor.device()), (shape, dtype, on.device()));
                assert!(on.download(tensor).unwrap() == bytes, "{dtype} {shape:?} on {}", on.device());
            };
            let host = make(&cpu, shape, dtype, &bytes);
            let up = host.to_device(&cpu, &gpu).unwrap();
            check(&up, &gpu);
            check(&up.to_device(&gpu, &gpu).unwrap(), &gpu);
            check(&up.to_device(&gpu, &cpu).unwrap(), &cpu);
            for other in &others {
                let across = up.to_device(&gpu, other).unwrap();
                check(&across, other);
                check(&across.to_device(other, &gpu).unwrap(), &gpu);
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn what_was_moved_is_worked_on_where_it_is() {
    let (cpu, gpu) = (cpu(), cuda());
    let values = (0..2 * 33).map(|i| (i as f32 * 0.37).sin()).collect();
    for dtype in DType::FLOATS {
        let host = HostTensor::from_vec::<f32>(&[2, 33], Clone::clone(&values)).unwrap().cast(dtype);
        let here = cpu.to_device(&host).unwrap();
        let there = here.to_device(&cpu, &gpu).unwrap();
        let (expected, got) = (cpu.softmax(&here).unwrap(), gpu.softmax(&there).unwrap());
        let got = got.to_device(&gpu, &cpu).unwrap();
        let (expected, got) = (cpu.to_host(&expected).unwrap(), cpu.to_host(&got).unwrap());
        let tolerance = if dtype == DType::F32 { 1e-6 } else { 1e-2 };
        for (a, b) in expected.to_f32().iter().zip(&got.to_f32()) {
            assert!((a - b).abs() <= tolerance * a.abs(), "{dtype}: {a} and {b}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn tensors_of_another_backend_are_refused() {
    let (cpu, gpu, other) = (cpu(), cuda(), cuda());
    let mut host = make(&cpu, &[2], DType::F32, &[0; 8]);
    let mut device = make(&gpu, &[2], DType::F32, &[0; 8]);
    let foreign = |error: Option<Error>| assert!(matches!(error, Some(Error::Device { .. })), "{error:?}");
    foreign(gpu.softmax(&host).err());
    foreign(cpu.softmax(&device).err());
    foreign(other.softmax(&device).err());
    foreign(gpu.download(&host).err());
    foreign(cpu.download(&device).err());
    foreign(other.download(&device).err());
    foreign(gpu.write(&mut host, 0, &[0; 4]).err());
    foreign(cpu.write(&mut device, 0, &[0; 4]).err());
    foreign(cpu.fill_random(&mut device, 1, 1.0).err());
    foreign(device.to_device(&cpu, &gpu).err());
    foreign(host.to_device(&gpu, &cpu).err());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_operation_is_forwarded_fused_ones_too() {
    fn run<B: KernelBackend>(backend: B) -> (String, Counters, usize) {
        let mut session = session(backend, None);
        let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
        let text = session.generate("KING HENRY:\n", &options).unwrap().map(|t| t.unwrap().text).collect();
        let chunk = session.model().prefill_chunk();
        (text, session.model().backend().counters(), chunk)
    }
    let inner = run(CudaBackend::new().unwrap());
    assert!(inner.1.launches > 0 && inner.2 > 512);
    assert_eq!(run(cuda()), inner, "the same text, launches and chunks");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_decoder_writes_the_golden_texts() {
    let options = GenerateOptions { max_tokens: 64, ..GenerateOptions::default() };
    for (prompt, text) in golden_texts() {
        let mut session = session(cuda(), Some(DType::F32));
        let answer: String =
            session.generate(&prompt, &options).unwrap().map(|token| token.unwrap().text).collect();
        assert_eq!(prompt + &answer, text);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_token_costs_one_read_and_nothing_else() {
    let mut session = session(cuda(), None);
    let backend = session.model().backend().clone();
    let options = GenerateOptions { max_tokens: 12, ignore_eos: true, ..GenerateOptions::default() };
    let mut tokens = session.generate("ROMEO:", &options).unwrap();
    // The first tokens may prepare the step that the later ones repeat.
    assert_eq!(tokens.by_ref().take(4).filter(|token| token.is_ok()).count(), 4);
    let before = backend.counters();
    assert_eq!(tokens.filter(|token| token.is_ok()).count(), 8);
    // The read of one of them was queued before.
    assert_eq!(difference(backend.counters(), before), [0, 0, 7]);
}

/// The step that is queued ahead must leave no trace when the answer is broken off.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_broken_off_answer_leaves_no_trace() {
    let greedy = |max_tokens| GenerateOptions { max_tokens, ..GenerateOptions::default() };
    let ids = |session: &mut Session<Backend>, prompt: &str, max_tokens, taken| -> Vec<u32> {
        let answer = session.generate(prompt, &greedy(max_tokens)).unwrap();
        answer.take(taken).map(|token| token.unwrap().id).collect()
    };
    let (mut whole, mut broken) = (session(cuda(), None), session(cuda(), None));
    let want = [ids(&mut whole, "ROMEO:", 7, 7), ids(&mut whole, "\nJULIET:", 20, 20)];
    let got = [ids(&mut broken, "ROMEO:", 100, 7), ids(&mut broken, "\nJULIET:", 20, 20)];
    assert_eq!(got, want);
    assert_eq!(broken.tokens(), whole.tokens());
}

/// The first step of a session is issued, the second captured, the others replayed; all give the same.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn steps_are_captured_once() {
    let mut session = session(cuda(), None);
    let options = GenerateOptions { max_tokens: 40, ..GenerateOptions::default() };
    session.generate("ROMEO:", &options).unwrap().for_each(|token| drop(token.unwrap()));
    let counters = session.model().backend().counters();
    assert_eq!((counters.captures, counters.replays), (1, 37), "of 39 steps");
}
