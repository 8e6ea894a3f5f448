//! Two layers with the sides of Mistral-7B, at which every loop of every kernel goes round.

use conformance::tolerance::{nmse, nmse_of_logits};
use torchless::{CpuBackend, CudaBackendBuilder, DType, KernelBackend, Model, ModelShape, Session};

use crate::common::{ids, made, mistral, random};
use crate::issued::Issued;

const VOCAB: usize = 1000;

/// Tokens of prompts: few, and as many as are fed together.
const SHORT: usize = 64;
const LONG: usize = 2048;

/// Tokens that are fed one by one after a prompt: the first is issued, the second captured, others replayed.
const STEPS: usize = 5;

/// What bounds are multiplied by. Random embeddings are so small that the layers outweigh them: activations rounded to bf16
/// come to 1.5 times the bound of whole models, on the CPU as well.
const SENSITIVITY: f64 = 3.0;

/// Logits of some positions.
type Logits = Vec<Vec<f32>>;

type With = fn(CudaBackendBuilder) -> CudaBackendBuilder;

/// Ways to run a model: what a card of compute capability 9.0 has, and older ones.
const WAYS: [(&str, With); 4] = [
    ("cuBLAS", |b| b),
    ("no cuBLAS", |b| b.blas(false)),
    ("compute capability 8.0", |b| b.kernel_target((8, 0)).blas(false)),
    ("compute capability 5.0", |b| b.kernel_target((5, 0)).blas(false)),
];

fn model<B: KernelBackend>(backend: B, shape: ModelShape, types: [DType; 2]) -> Model<B> {
    random(backend, ModelShape { vocab_size: VOCAB, ..shape }, types, LONG + STEPS)
}

fn session<B: KernelBackend>(model: &Model<B>) -> Session<B> {
    model.session(LONG + STEPS).unwrap()
}

/// A prompt and what follows it, and the positions whose logits are compared.
fn text(prompt: usize) -> (Vec<u32>, Vec<usize>) {
    let ids = ids(prompt + STEPS).iter().map(|id| id % VOCAB as u32).collect();
    (ids, [0, prompt / 3].into_iter().chain(prompt - 1..prompt + STEPS).collect())
}

/// All tokens fed together.
fn at_once<B: KernelBackend>(model: &Model<B>, prompt: usize) -> Logits {
    let (ids, wanted) = text(prompt);
    session(model).logits(&ids, &wanted).unwrap()
}

/// The prompt fed together, and then one token after the other.
fn in_steps<B: KernelBackend>(session: &mut Session<B>, prompt: usize) -> Logits {
    let (ids, wanted) = text(prompt);
    session.truncate(0);
    let mut logits = session.logits(&ids[..prompt], &wanted[..wanted.len() - STEPS]).unwrap();
    logits.extend(ids[prompt..].iter().map(|id| session.step_logits(*id).unwrap()));
    logits
}

/// Whether logits are as near as the suite asks of whole models; every position by itself, lest the others hide one.
fn compare(what: &str, got: &Logits, want: &Logits, dtype: DType) -> Result<(), String> {
    let bound = SENSITIVITY * nmse_of_logits(dtype);
    let wide = |row: &[f32]| row.iter().copied().map(f64::from).collect::<Vec<_>>();
    let errors: Vec<f64> = got.iter().zip(want).map(|(got, want)| nmse(&wide(got), &wide(want))).collect();
    println!("{what}: NMSE {errors:?}");
    // A NaN is no success.
    match got.len() == want.len() && errors.iter().all(|error| *error < bound) {
        true => Ok(()),
        false => Err(format!("{what}: NMSE {errors:?}, above {bound:e}")),
    }
}

/// Against the composed operations in f32 of what runs everywhere, and that against the CPU.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_way_comes_to_what_f32_activations_give() {
    for dtype in DType::FLOATS {
        let portable = made(|b| b.kernel_target((5, 0)).blas(false));
        let reference = model(Issued { inner: portable, plain: true }, mistral(2), [dtype, DType::F32]);
        let want = [SHORT, LONG].map(|prompt| at_once(&reference, prompt));
        let cpu = model(CpuBackend::new(), mistral(2), [dtype, DType::F32]);
        let what = format!("{dtype}, {SHORT} tokens, reference and CPU");
        compare(&what, &want[0], &at_once(&cpu, SHORT), DType::F32).unwrap();
        for (way, with) in WAYS {
            let model = model(made(with), mistral(2), [dtype; 2]);
            for (prompt, want) in [SHORT, LONG].into_iter().zip(&want) {
                let got = in_steps(&mut session(&model), prompt);
                compare(&format!("{dtype}, {prompt} tokens, {way}"), &got, want, dtype).unwrap();
            }
        }
    }
}

/// From run to run, from backend to backend, issued, captured and replayed.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_run_gives_the_same_bits() {
    for (dtype, (way, with)) in DType::FLOATS.into_iter().flat_map(|dtype| WAYS.map(|way| (dtype, way))) {
        let issued = model(Issued { inner: made(with), plain: false }, mistral(2), [dtype; 2]);
        let captured = model(made(with), mistral(2), [dtype; 2]);
        // A short prompt is captured when it comes for the fourth time, a long one never.
        for (prompt, runs) in [(SHORT, 5), (LONG, 2)] {
            let want = in_steps(&mut session(&issued), prompt);
            let (mut session, before) = (session(&captured), captured.backend().counters());
            for run in 0..runs {
                let got = in_steps(&mut session, prompt);
                assert!(
                    got == want,
                    "{dtype}, {prompt} tokens, {way}: run {run} differs from what was issued"
                );
            }
            let replays = captured.backend().counters().replays - before.replays;
            assert!(
                replays >= (runs - 1) * STEPS as u64,
                "{dtype}, {prompt} tokens, {way}: {replays} replays"
            );
        }
    }
}

/// What the tests above compare by, on the CPU and with smaller sides.
#[test]
fn composed_operations_are_near_and_other_tokens_are_not() {
    let tiny = ModelShape::named("tiny-shakespeare").unwrap();
    let tiny = || ModelShape { max_position_embeddings: LONG + STEPS, ..tiny.clone() };
    for dtype in DType::FLOATS {
        let cpu = model(CpuBackend::new(), tiny(), [dtype, DType::F32]);
        let want = at_once(&cpu, SHORT);
        for plain in [true, false] {
            let issued = model(Issued { inner: CpuBackend::new(), plain }, tiny(), [dtype, DType::F32]);
            compare("issued", &in_steps(&mut session(&issued), SHORT), &want, DType::F32).unwrap();
        }
        compare("another prompt", &at_once(&cpu, SHORT - 1), &want, dtype).unwrap_err();
    }
}
