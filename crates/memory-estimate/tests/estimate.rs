//! The full estimate: each part against its formula, scaling, overflow and output; and what `fit` suggests.
#![expect(clippy::unwrap_used, reason = "helpers of the tests may panic as the tests do")]

use memory_estimate::{
    Accounting, Adjustment, ElementKind, EstimateError, EstimateRequest, ModelShape, Part, WeightDtype,
};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn named(name: &str) -> ModelShape {
    ModelShape::named(name).unwrap()
}

fn request(shape: &ModelShape) -> EstimateRequest<'_> {
    EstimateRequest {
        shape,
        dtype: WeightDtype::F32,
        kv_dtype: WeightDtype::F32,
        context: 4096,
        batch: 1,
        prefill_chunk: 512,
        activation_bytes: 4,
    }
}

#[test]
fn every_part_of_mistral_7b() {
    let shape = named("mistral-7b");
    let estimate = request(&shape).estimate().unwrap();
    assert_eq!(estimate.embeddings, 500 * MIB);
    assert_eq!(estimate.lm_head, 500 * MIB);
    assert_eq!(estimate.attention, 32 * 160 * MIB);
    assert_eq!(estimate.mlp, 32 * 672 * MIB);
    assert_eq!(estimate.norms, 65 * 4096 * 4);
    assert_eq!(estimate.weights(), 7_241_732_096 * 4);
    assert_eq!(estimate.rope_tables, 2 * 4096 * 64 * 4);
    assert_eq!(estimate.kv_cache, 1024 * MIB);
    // x, h, qkv, att, gate_up, ffn for 512 rows; logits; ids, positions; next id and position; history.
    let per_row = 4096 + 4096 + 6144 + 4096 + 28672 + 14336 + 2;
    assert_eq!(estimate.activations, 4 * (512 * per_row + 32000 + 2 + 4096));
    assert_eq!(estimate.workspace, 4 * 32 * 4096);
    let parts: u64 = estimate.parts().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(estimate.total(), parts);
    assert_eq!(estimate.total_mib(), parts as f64 / MIB as f64);
}

#[test]
fn dtypes_count_only_where_they_apply() {
    let shape = named("llama-3.2-1b");
    let full = request(&shape).estimate().unwrap();
    for dtype in [WeightDtype::F16, WeightDtype::Bf16] {
        let half = EstimateRequest { dtype, ..request(&shape) }.estimate().unwrap();
        assert_eq!(half.weights() * 2, full.weights());
        assert_eq!(half.total() + half.weights(), full.total());
        let half = EstimateRequest { kv_dtype: dtype, ..request(&shape) }.estimate().unwrap();
        assert_eq!(half.kv_cache * 2, full.kv_cache);
        assert_eq!(half.total() + half.kv_cache, full.total());
    }
    let half = EstimateRequest { activation_bytes: 2, ..request(&shape) }.estimate().unwrap();
    // The residual stream, ids and positions; logits; next id and position; history.
    let fixed = 4 * (512 * (shape.hidden_size as u64 + 2) + shape.vocab_size as u64 + 2 + 4096);
    assert_eq!((half.activations - fixed) * 2, full.activations - fixed);
}

#[test]
fn tied_embeddings_are_held_once() {
    let tied = named("llama-3.2-1b");
    let untied = ModelShape { tie_word_embeddings: false, ..tied.clone() };
    let (tied, untied) = (request(&tied).estimate().unwrap(), request(&untied).estimate().unwrap());
    assert_eq!(tied.lm_head, 0);
    assert_eq!(untied.lm_head, untied.embeddings);
    assert_eq!(untied.total() - tied.total(), tied.embeddings);
}

#[test]
fn sessions_share_the_weights() {
    let shape = named("tiny-shakespeare");
    let one = request(&shape).estimate().unwrap();
    let five = EstimateRequest { batch: 5, ..request(&shape) }.estimate().unwrap();
    assert_eq!(five.weights(), one.weights());
    assert_eq!(five.total() - five.weights(), 5 * (one.total() - one.weights()));
}

#[test]
fn a_chunk_beyond_the_context_counts_as_the_context() {
    let shape = named("tiny-shakespeare");
    let at = |prefill_chunk| EstimateRequest { prefill_chunk, ..request(&shape) }.estimate().unwrap();
    assert_eq!(at(usize::MAX), at(4096));
    assert!(at(4095).activations < at(4096).activations);
}

#[test]
fn items_are_the_buffers() {
    let shape = named("mistral-7b");
    let items = EstimateRequest { batch: 3, ..request(&shape) }.items().unwrap();
    let item = |name| items.iter().find(|item| item.name == name).unwrap();
    let kv = item("kv_cache");
    assert_eq!((kv.part, kv.buffers, kv.elements), (Part::KvCache, 3 * 32 * 2, 4096 * 1024));
    assert_eq!(kv.kind, ElementKind::Cache);
    let qkv = item("qkv_proj");
    assert_eq!((qkv.part, qkv.buffers, qkv.elements), (Part::Attention, 32, 6144 * 4096));
    let names: std::collections::HashSet<_> = items.iter().map(|item| item.name).collect();
    assert_eq!(names.len(), items.len());
}

#[test]
fn zeros_and_overflow_are_errors() {
    let shape = named("mistral-7b");
    let base = request(&shape);
    let invalid = [
        EstimateRequest { context: 0, ..base },
        EstimateRequest { batch: 0, ..base },
        EstimateRequest { prefill_chunk: 0, ..base },
        EstimateRequest { activation_bytes: 0, ..base },
        EstimateRequest { activation_bytes: 9, ..base },
        EstimateRequest { shape: &ModelShape { n_heads: 0, ..shape.clone() }, ..base },
    ];
    for request in invalid {
        assert!(matches!(request.estimate(), Err(EstimateError::Invalid { .. })), "{request:?}");
        assert!(request.fit(0).is_err());
    }
    let overflowing = [
        EstimateRequest { context: usize::MAX, ..base },
        EstimateRequest { batch: usize::MAX, ..base },
        EstimateRequest { context: 1 << 40, batch: 1 << 20, ..base },
    ];
    for request in overflowing {
        assert!(matches!(request.estimate(), Err(EstimateError::Overflow)), "{request:?}");
        assert!(request.fit(0).is_err());
    }
}

#[test]
fn table_and_json_show_every_part() {
    let shape = named("mistral-7b");
    let estimate = request(&shape).estimate().unwrap();
    let table = estimate.to_string();
    let json = serde_json::to_value(&estimate).unwrap();
    for (name, bytes) in estimate.parts().into_iter().chain([("total", estimate.total())]) {
        let mib = format!("{:.2} MiB", bytes as f64 / MIB as f64);
        let line = table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.ends_with(&format!(" {mib}")), "{line}");
        assert_eq!(json[name], bytes);
    }
    assert_eq!(table.lines().count(), 11);
    assert_eq!(serde_json::to_value(&shape).unwrap()["sliding_window"], serde_json::Value::Null);
    assert_eq!(serde_json::to_value(WeightDtype::Bf16).unwrap(), "bf16");
}

#[test]
fn what_fits_needs_no_change() {
    let shape = named("tiny-shakespeare");
    let needed = request(&shape).estimate().unwrap().total();
    let fit = request(&shape).fit(needed).unwrap();
    assert!(fit.fits() && fit.changes.is_empty());
    assert!(!request(&shape).fit(needed - 1).unwrap().fits());
}

#[test]
fn a_dtype_is_suggested_only_where_f32_is_used() {
    let shape = named("llama-3.2-1b");
    let dtypes = |request: EstimateRequest<'_>| {
        let fit = request.fit(request.estimate().unwrap().total() - 1).unwrap();
        fit.changes.iter().filter(|change| matches!(change.adjustment, Adjustment::Dtype(_))).count()
    };
    let base = request(&shape);
    assert_eq!(dtypes(base), 2);
    assert_eq!(dtypes(EstimateRequest { dtype: WeightDtype::F16, ..base }), 2);
    assert_eq!(dtypes(EstimateRequest { dtype: WeightDtype::F16, kv_dtype: WeightDtype::Bf16, ..base }), 0);
    let mixed = EstimateRequest { dtype: WeightDtype::F16, ..base };
    let changed = Adjustment::Dtype(WeightDtype::Bf16).apply(&mixed);
    assert_eq!((changed.dtype, changed.kv_dtype), (WeightDtype::F16, WeightDtype::Bf16));
}

#[test]
fn a_budget_below_the_minimum_says_so() {
    let shape = named("mistral-7b");
    let fit = request(&shape).fit(1 << 30).unwrap();
    assert!(fit.changes.is_empty());
    let least = EstimateRequest {
        dtype: WeightDtype::Bf16,
        kv_dtype: WeightDtype::Bf16,
        context: 1,
        prefill_chunk: 1,
        ..request(&shape)
    };
    assert_eq!(fit.minimum, least.estimate().unwrap().total());
    assert!(least.fit(fit.minimum).unwrap().fits());
    let text = fit.to_string();
    assert!(text.contains("nothing makes it fit") && text.contains("13812.99 MiB"), "{text}");
    assert!(request(&shape).fit(fit.minimum).unwrap().to_string().contains("together"));
}

proptest! {
    /// Each suggestion, applied, needs what it says and fits; one step larger does not.
    #[test]
    fn suggestions_hold_when_applied(
        name in prop::sample::select(ModelShape::names().collect::<Vec<_>>()),
        context in 1_usize..200_000, batch in 1_usize..40, prefill_chunk in 1_usize..5000,
        share in 0.0..1.1_f64,
    ) {
        let shape = named(name);
        let request = EstimateRequest { context, batch, prefill_chunk, ..request(&shape) };
        let needed = request.estimate().unwrap().total();
        let fit = request.fit((needed as f64 * share) as u64).unwrap();
        prop_assert_eq!(fit.needed, needed);
        prop_assert!(fit.minimum <= needed);
        let mut seen = Vec::new();
        for change in &fit.changes {
            let total = |adjustment: Adjustment| adjustment.apply(&request).estimate().unwrap().total();
            prop_assert_eq!(total(change.adjustment), change.total);
            prop_assert!(change.total <= fit.budget && fit.minimum <= change.total);
            let larger = match change.adjustment {
                Adjustment::Context(tokens) => Adjustment::Context(tokens + 1),
                Adjustment::Batch(sessions) => Adjustment::Batch(sessions + 1),
                Adjustment::PrefillChunk(rows) => Adjustment::PrefillChunk(rows + 1),
                _ => continue,
            };
            prop_assert!(total(larger) > fit.budget);
            seen.push(std::mem::discriminant(&change.adjustment));
        }
        // What is not suggested does not fit even at 1.
        for least in [Adjustment::Context(1), Adjustment::Batch(1), Adjustment::PrefillChunk(1)] {
            let fits = least.apply(&request).estimate().unwrap().total() <= fit.budget;
            prop_assert_eq!(seen.contains(&std::mem::discriminant(&least)), fits && !fit.fits());
        }
    }

    #[test]
    fn no_request_panics(
        context: usize, batch: usize, prefill_chunk: usize, activation_bytes in 0_usize..10, budget: u64,
    ) {
        let shape = named("tiny-shakespeare");
        let request = EstimateRequest { context, batch, prefill_chunk, activation_bytes, ..request(&shape) };
        prop_assert_eq!(request.estimate().is_ok(), request.fit(budget).is_ok());
    }
}

/// Whole MiB for every buffer, and something of its own for every token of the chunk.
struct Coarse;

impl Accounting for Coarse {
    fn taken(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(1 << 20)
    }
    fn overhead(&self, request: &EstimateRequest<'_>) -> u64 {
        1000 * request.prefill_chunk as u64
    }
}

#[test]
fn a_device_adds_to_every_buffer_and_beside_them() {
    let shape = ModelShape::named("tiny-shakespeare").unwrap();
    let request = EstimateRequest { batch: 3, ..request(&shape) };
    let coarse = request.estimate_on(&Coarse).unwrap();
    assert_eq!(coarse.backend, 1000 * request.prefill_chunk as u64);
    let buffers: u64 = request.items().unwrap().iter().map(|item| item.buffers).sum();
    let whole = coarse.total() - coarse.backend;
    let exact = request.estimate().unwrap();
    assert_eq!(whole % (1 << 20), 0);
    assert!(whole >= exact.total() && whole < exact.total() + (buffers << 20));
    // Two vectors a layer and one at the end, each of less than a MiB.
    assert_eq!(coarse.norms, (2 * shape.n_layers as u64 + 1) << 20);
    assert_eq!(exact.backend, 0);
    let fit = request.fit_on(&Coarse, coarse.total() - 1).unwrap();
    assert!(!fit.fits());
    for change in &fit.changes {
        let changed = change.adjustment.apply(&request).estimate_on(&Coarse).unwrap().total();
        assert_eq!(changed, change.total);
    }
    assert!(fit.changes.iter().any(|c| matches!(c.adjustment, Adjustment::PrefillChunk(_))));
}
