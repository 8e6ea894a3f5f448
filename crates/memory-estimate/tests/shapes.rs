//! Named shapes, their parameter counts, and what `validate` refuses.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of the tests may panic as the tests do")]

use memory_estimate::{EstimateError, ModelShape, NAMED_SHAPES, estimate_model_memory_mb};
use proptest::prelude::*;

fn mistral() -> ModelShape {
    ModelShape::named("mistral-7b").unwrap()
}

#[test]
fn published_parameter_counts() {
    let counts = [
        ("mistral-7b", 7_241_732_096),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
        // 2·1024·256 + 4·(512·256 + 256·256 + 3·704·256 + 2·256) + 256
        ("tiny-shakespeare", 3_475_712),
    ];
    assert!(ModelShape::names().eq(counts.iter().map(|(name, _)| *name)));
    for (name, parameters) in counts {
        assert_eq!(ModelShape::named(name).unwrap().parameters(), parameters, "{name}");
    }
}

#[test]
fn named_shapes_are_valid_and_other_names_unknown() {
    for (name, shape) in NAMED_SHAPES {
        shape.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["", "Mistral-7B", "mistral-7b ", "gpt-2"] {
        assert_eq!(ModelShape::named(name), None, "{name:?}");
    }
}

#[test]
fn tying_saves_one_embedding_table() {
    let untied = mistral();
    let tied = ModelShape { tie_word_embeddings: true, ..mistral() };
    assert_eq!(untied.parameters() - tied.parameters(), 32000 * 4096);
}

#[test]
fn head_dim_of_its_own_counts() {
    let narrow = ModelShape { head_dim: 64, ..mistral() };
    // Half of q, k, v and o: (4096 + 1024) columns of 4096, twice, over two, in 32 layers.
    assert_eq!(mistral().parameters() - narrow.parameters(), 32 * 4096 * (4096 + 1024));
}

#[test]
fn the_six_argument_estimate_of_the_spec() {
    let mib = estimate_model_memory_mb(4096, 14336, 32, 32000, 32, 8);
    assert_eq!(mib, 7_241_732_096.0 * 4.0 / 1_048_576.0);
    assert_eq!(format!("{mib:.1}"), "27625.0");
}

#[test]
fn the_six_argument_estimate_is_finite_for_anything() {
    assert_eq!(estimate_model_memory_mb(0, 0, 0, 0, 0, 0), 0.0);
    assert!(estimate_model_memory_mb(4096, 14336, 32, 32000, 0, 8) > 0.0);
    let most = usize::MAX;
    assert!(estimate_model_memory_mb(most, most, most, most, most, most).is_finite());
    assert!(estimate_model_memory_mb(most, most, most, most, 1, most).is_finite());
}

fn invalid_field(shape: &ModelShape) -> &'static str {
    match shape.validate() {
        Err(EstimateError::Invalid { field, .. }) => field,
        other => panic!("{other:?} for {shape:?}"),
    }
}

#[test]
fn validate_names_the_field() {
    type Edit = fn(&mut ModelShape, usize);
    let edits: [(&str, Edit); 8] = [
        ("hidden_size", |shape, value| shape.hidden_size = value),
        ("intermediate_size", |shape, value| shape.intermediate_size = value),
        ("n_layers", |shape, value| shape.n_layers = value),
        ("vocab_size", |shape, value| shape.vocab_size = value),
        ("n_heads", |shape, value| shape.n_heads = value),
        ("n_kv_heads", |shape, value| shape.n_kv_heads = value),
        ("head_dim", |shape, value| shape.head_dim = value),
        ("max_position_embeddings", |shape, value| shape.max_position_embeddings = value),
    ];
    for (field, edit) in edits {
        for value in [0, usize::MAX] {
            let mut shape = mistral();
            edit(&mut shape, value);
            assert_eq!(invalid_field(&shape), field);
        }
    }
    assert_eq!(invalid_field(&ModelShape { sliding_window: Some(0), ..mistral() }), "sliding_window");
    assert_eq!(invalid_field(&ModelShape { n_kv_heads: 5, ..mistral() }), "n_kv_heads");
    assert_eq!(invalid_field(&ModelShape { n_kv_heads: 64, ..mistral() }), "n_kv_heads");
    assert_eq!(invalid_field(&ModelShape { head_dim: 127, ..mistral() }), "head_dim");
}

#[test]
fn the_largest_valid_shape_does_not_overflow() {
    let shape = ModelShape {
        hidden_size: 1 << 20,
        intermediate_size: 1 << 22,
        n_layers: 1 << 12,
        vocab_size: 1 << 24,
        n_heads: 1 << 12,
        n_kv_heads: 1 << 12,
        head_dim: 1 << 12,
        ..mistral()
    };
    shape.validate().unwrap();
    assert!(shape.parameters() < 1 << 59);
    assert!(ModelShape { hidden_size: (1 << 20) + 1, ..shape }.validate().is_err());
}

proptest! {
    /// The spec's formula and the allocation layout are written apart and must agree.
    #[test]
    fn formula_and_layout_agree(
        head_dim in 1_usize..128, n_kv in 1_usize..9, group in 1_usize..9,
        ffn in 1_usize..20_000, layers in 1_usize..80, vocab in 1_usize..200_000,
    ) {
        let n_heads = n_kv * group;
        let shape = ModelShape {
            hidden_size: n_heads * head_dim,
            intermediate_size: ffn,
            n_layers: layers,
            vocab_size: vocab,
            n_heads,
            n_kv_heads: n_kv,
            head_dim,
            ..mistral()
        };
        let mib = estimate_model_memory_mb(shape.hidden_size, ffn, layers, vocab, n_heads, n_kv);
        prop_assert_eq!(mib, shape.parameters() as f64 * 4.0 / 1_048_576.0);
    }

    #[test]
    fn nothing_panics_on_any_shape(dims in prop::array::uniform9(any::<usize>()), tied: bool) {
        let [a, b, c, d, e, f, g, h, i] = dims;
        let shape = ModelShape {
            hidden_size: a, intermediate_size: b, n_layers: c, vocab_size: d, n_heads: e, n_kv_heads: f,
            head_dim: g, tie_word_embeddings: tied, max_position_embeddings: h, sliding_window: Some(i),
        };
        prop_assert!(shape.validate().is_err());
        prop_assert_eq!(shape.parameters(), u64::MAX);
        prop_assert!(estimate_model_memory_mb(a, b, c, d, e, f).is_finite());
    }
}
