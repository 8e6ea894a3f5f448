//! The facade passes everything on to the backend that it holds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use torchless::{
    Backend, BackendPreference, Counters, CpuBackend, DeviceTensor, Error, GenerateOptions, HostTensor,
    KernelBackend, LoadOptions, Model, init_backend,
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare");

fn cpu() -> Backend {
    init_backend(BackendPreference::Cpu).unwrap()
}

/// Generates with a backend; gives the text and what the backend did.
fn run<B: KernelBackend>(backend: B) -> (String, Counters) {
    let backend = Arc::new(backend);
    let model = Model::load(&backend, FOLDER, &LoadOptions::default()).unwrap();
    let mut session = model.session(128).unwrap();
    let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
    let text = session.generate("KING HENRY:\n", &options).unwrap().map(|t| t.unwrap().text).collect();
    (text, backend.counters())
}

#[test]
fn every_operation_is_forwarded_fused_ones_too() {
    assert_eq!(run(cpu()), run(CpuBackend::new()), "the same text from the same number of launches");
}

mod conformance_suite {
    conformance::suite!(super::cpu());
}

#[test]
fn tensors_move_between_live_backends() {
    let (a, b) = (cpu(), cpu());
    let host = HostTensor::from_vec(&[3, 2], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let here = a.to_device(&host).unwrap();
    assert!(matches!(b.softmax(&here), Err(Error::Device { .. })));
    let there = here.to_device(&a, &b).unwrap();
    assert_eq!(there.device(), b.device());
    assert_eq!(b.to_host(&there).unwrap(), host);
    assert!(
        matches!(here.to_device(&b, &a), Err(Error::Device { .. })),
        "not from a backend that does not own it"
    );
}

#[test]
fn the_values_users_hold_cross_threads() {
    fn check<T: Send + Sync>() {}
    fn check_send<T: Send>() {}
    check::<Backend>();
    check::<torchless::UnifiedTensor>();
    check::<Model<Backend>>();
    check_send::<torchless::Session<Backend>>();
}
