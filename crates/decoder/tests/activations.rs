//! A backend that wants activations in bf16: which types the decoder gives it, what that costs and what it saves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use backend_api::ops::*;
use backend_api::{Checked, DType, DeviceTensor, KernelBackend, Mat, Result};
use backend_cpu::{CpuBackend, CpuTensor};
use decoder::{Config, LoadOptions, Model};
use memory_estimate::{EstimateRequest, ModelShape, WeightDtype};

/// The CPU backend with other answers to `activation_dtype` and `prefill_chunk`; its fused operations are composed.
struct Wants {
    cpu: CpuBackend,
    activations: DType,
    /// Operations with the types of their operands.
    seen: Mutex<BTreeSet<String>>,
}

impl Wants {
    fn new(activations: DType) -> Arc<Self> {
        Arc::new(Self { cpu: CpuBackend::new(), activations, seen: Mutex::default() })
    }

    fn saw(&self, op: &str, inputs: &[Mat<'_, CpuTensor>], out: DType) {
        let inputs: Vec<_> = inputs.iter().map(|m| m.tensor().dtype().to_string()).collect();
        self.seen.lock().unwrap().insert(format!("{op} {} -> {out}", inputs.join(" ")));
    }
}

impl KernelBackend for Wants {
    type Tensor = CpuTensor;

    fn activation_dtype(&self, _weights: DType) -> DType {
        self.activations
    }
    fn prefill_chunk(&self) -> usize {
        500
    }

    conformance::forward! { cpu:
        softmax_into(Softmax), silu_into(Silu), apply_rope_into(ApplyRope),
        compute_attention_scores_into(ComputeAttentionScores), weighted_sum_rows_into(WeightedSumRows),
        add_into(Add), mul_into(Mul), append_rows_into(AppendRows), argmax_into(Argmax), sample_into(Sample)
    }

    fn embed_into(&self, op: Checked<Embed<'_, CpuTensor>>) -> Result<()> {
        self.saw("embed", &[op.get().table], op.get().out.operand().dtype);
        self.cpu.embed_into(op)
    }
    fn matmul_into(&self, op: Checked<Matmul<'_, CpuTensor>>) -> Result<()> {
        let Matmul { x, w, out, accumulate, .. } = op.get();
        let name = if *accumulate { "matmul+" } else { "matmul" };
        self.saw(name, &[*x, *w], out.operand().dtype);
        self.cpu.matmul_into(op)
    }
    fn rmsnorm_into(&self, op: Checked<RmsNorm<'_, CpuTensor>>) -> Result<()> {
        let RmsNorm { io, weight, .. } = op.get();
        self.saw("rmsnorm", &[io.input(), *weight], io.operands().1.dtype);
        self.cpu.rmsnorm_into(op)
    }
    fn attention(&self, op: Checked<Attention<'_, CpuTensor>>) -> Result<()> {
        let Attention { q, k, v, out, .. } = op.get();
        self.saw("attention", &[*q, *k, *v], out.operand().dtype);
        self.cpu.attention(op)
    }
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare"))
}

/// Logits after a prompt, and after one token more that is fed by a step.
fn logits(backend: &Arc<Wants>, dtype: DType) -> [Vec<f32>; 2] {
    logits_with(backend, dtype, dtype)
}

fn logits_with(backend: &Arc<Wants>, dtype: DType, cache: DType) -> [Vec<f32>; 2] {
    let options = LoadOptions { dtype: Some(dtype), kv_dtype: Some(cache), ..LoadOptions::default() };
    let model = Model::load(backend, folder(), &options).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * 37) % 1000 + 10).collect();
    let mut session = model.session(64).unwrap();
    let after_prompt = session.logits(&ids, &[ids.len() - 1]).unwrap().remove(0);
    [after_prompt, session.step_logits(5).unwrap()]
}

#[test]
fn stream_and_logits_are_f32_and_the_rest_is_what_the_backend_wants() {
    for (activations, name) in [(DType::F32, "f32"), (DType::BF16, "bf16"), (DType::F16, "f16")] {
        let backend = Wants::new(activations);
        logits(&backend, DType::BF16);
        let want = [
            format!("attention {name} bf16 bf16 -> {name}"),
            "embed bf16 -> f32".to_owned(),
            format!("matmul {name} bf16 -> {name}"),
            format!("matmul {name} bf16 -> f32"),
            format!("matmul+ {name} bf16 -> f32"),
            format!("rmsnorm f32 bf16 -> {name}"),
        ];
        assert_eq!(*backend.seen.lock().unwrap(), BTreeSet::from(want));
    }
}

#[test]
fn attention_is_f32_beside_a_cache_of_another_type_and_nothing_else_is() {
    let backend = Wants::new(DType::BF16);
    logits_with(&backend, DType::BF16, DType::F16);
    let want = [
        "attention f32 f16 f16 -> f32",
        "embed bf16 -> f32",
        "matmul bf16 bf16 -> bf16",
        "matmul bf16 bf16 -> f32",
        "matmul+ bf16 bf16 -> f32",
        "matmul+ f32 bf16 -> f32",
        "rmsnorm f32 bf16 -> bf16",
    ];
    assert_eq!(*backend.seen.lock().unwrap(), want.map(String::from).into());
}

#[test]
fn narrow_activations_round_the_logits_a_little() {
    let wide = logits(&Wants::new(DType::F32), DType::BF16);
    for (activations, least, most) in [(DType::F16, 1e-9, 1e-5), (DType::BF16, 1e-7, 1e-3)] {
        let narrow = logits(&Wants::new(activations), DType::BF16);
        for (narrow, wide) in narrow.iter().zip(&wide) {
            let square = |v: f32| f64::from(v) * f64::from(v);
            let error: f64 = narrow.iter().zip(wide).map(|(n, w)| square(n - w)).sum();
            let nmse = error / wide.iter().copied().map(square).sum::<f64>();
            assert!((least..most).contains(&nmse), "{activations}: {nmse:e}");
        }
    }
}

#[test]
fn the_estimate_counts_narrow_activations() {
    estimated(DType::BF16, WeightDtype::Bf16);
    estimated(DType::F16, WeightDtype::F16);
}

fn estimated(cache: DType, kv_dtype: WeightDtype) {
    let backend = Wants::new(DType::BF16);
    let shape = ModelShape::named("tiny-shakespeare").unwrap();
    let options = LoadOptions { kv_dtype: Some(cache), ..LoadOptions::default() };
    let model = Model::random(&backend, Config::from_shape(shape), 5, &options).unwrap();
    assert_eq!(model.prefill_chunk(), 500, "what the backend answers");
    let mut session = model.session(1024).unwrap();
    session.logits(&[1, 2, 3], &[2]).unwrap();
    let estimate = |activation_bytes| {
        let request = EstimateRequest {
            shape: &model.config().shape,
            dtype: WeightDtype::Bf16,
            kv_dtype,
            context: 1024,
            batch: 1,
            prefill_chunk: model.prefill_chunk(),
            activation_bytes,
        };
        request.estimate().unwrap().total() as f64 / backend.memory().high_water as f64
    };
    assert!((estimate(2) - 1.0).abs() < 0.01, "{}", estimate(2));
    assert!(estimate(4) > 1.05, "{}", estimate(4));
}
