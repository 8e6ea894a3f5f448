//! The decoder against the f64 reference of the whole model, over the settings that both families have.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use backend_api::{DType, Error};
use backend_cpu::CpuBackend;
use conformance::decoder::{Folder, ModelType, ReferenceConfig, ReferenceModel, RopeScaling};
use conformance::tolerance::nmse;
use decoder::{Config, GenerateOptions, LoadOptions, Model};

const TOKENIZER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare/tokenizer.json");

/// The error that a storage type may cost, as `torchless verify` has it.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-10,
        DType::F16 => 1e-6,
        _ => 2e-5,
    }
}

fn load(reference: &ReferenceModel, folder: Folder<'_>, options: &LoadOptions) -> Model<CpuBackend> {
    let path = tempfile::tempdir().unwrap();
    let tokenizer = std::fs::read(TOKENIZER).unwrap();
    reference.write_folder(path.path(), Folder { tokenizer: Some(&tokenizer), ..folder }).unwrap();
    Model::load(&Arc::new(CpuBackend::new()), path.path(), options).unwrap()
}

fn wide(rows: &[Vec<f32>]) -> Vec<f64> {
    rows.iter().flatten().map(|v| f64::from(*v)).collect()
}

/// Logits of every position, fed as a batch in chunks and token by token, against the reference.
fn compare(name: &str, config: ReferenceConfig, positions: usize, dtypes: &[DType], folder: Folder<'_>) {
    let reference = ReferenceModel::random(config, 11);
    let vocab = reference.config.vocab_size as u32;
    let ids: Vec<u32> = (0..positions as u32).map(|i| (i * i + 7 * i) % vocab).collect();
    for dtype in dtypes {
        let want: Vec<f64> = reference.rounded(*dtype).logits(&ids).into_iter().flatten().collect();
        let options = LoadOptions { dtype: Some(*dtype), prefill_chunk: Some(100), ..LoadOptions::default() };
        let model = load(&reference.rounded(*dtype), Folder { dtype: *dtype, ..folder }, &options);
        let all: Vec<usize> = (0..positions).collect();
        let batch = model.session(positions).unwrap().logits(&ids, &all).unwrap();
        let mut session = model.session(positions).unwrap();
        let single: Vec<_> = ids.iter().map(|id| session.step_logits(*id).unwrap()).collect();
        for (way, got) in [("batch", batch), ("single tokens", single)] {
            let error = nmse(&wide(&got), &want);
            assert!(error <= tolerance(*dtype), "{name}, {dtype}, {way}: NMSE {error:e}");
        }
    }
}

fn every_dtype(name: &str, config: ReferenceConfig) {
    compare(name, config, 130, &DType::FLOATS, Folder::default());
}

#[test]
fn plain_mistral() {
    every_dtype("plain", ReferenceConfig::tiny());
}

#[test]
fn sliding_window() {
    for window in [1, 5, 64, 1000] {
        every_dtype("window", ReferenceConfig { sliding_window: Some(window), ..ReferenceConfig::tiny() });
    }
}

#[test]
fn tied_embeddings() {
    every_dtype("tied", ReferenceConfig { tie_word_embeddings: true, ..ReferenceConfig::tiny() });
}

#[test]
fn heads_of_every_kind() {
    for (n_heads, n_kv_heads, head_dim) in
        [(4, 4, 8), (6, 1, 10), (7, 7, 40), (8, 2, 64), (3, 1, 80), (2, 1, 256)]
    {
        let config = ReferenceConfig { n_heads, n_kv_heads, head_dim, ..ReferenceConfig::tiny() };
        compare("heads", config, 40, &DType::FLOATS, Folder::default());
    }
}

#[test]
fn odd_sizes() {
    let config = ReferenceConfig {
        hidden_size: 37,
        intermediate_size: 53,
        vocab_size: 101,
        n_layers: 3,
        model_type: ModelType::Llama,
        ..ReferenceConfig::tiny()
    };
    every_dtype("odd", config);
}

#[test]
fn rotary_scaling_in_both_forms_of_config() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    for scaling in [RopeScaling::Linear { factor: 4.0 }, llama3] {
        for new_config in [false, true] {
            let config = ReferenceConfig {
                rope_scaling: Some(scaling),
                model_type: ModelType::Llama,
                head_dim: 16,
                ..ReferenceConfig::tiny()
            };
            compare("scaling", config, 130, &DType::FLOATS, Folder { new_config, ..Folder::default() });
        }
    }
}

#[test]
fn shards() {
    for shards in [2, 5] {
        compare(
            "shards",
            ReferenceConfig::tiny(),
            20,
            &DType::FLOATS,
            Folder { shards, ..Folder::default() },
        );
    }
}

#[test]
fn long_positions() {
    let config = ReferenceConfig { sliding_window: Some(3000), ..ReferenceConfig::tiny() };
    compare("4096 positions", config, 4096, &[DType::F32, DType::BF16], Folder::default());
}

#[test]
fn greedy_ids_are_the_reference_s() {
    let reference = ReferenceModel::random(ReferenceConfig::tiny(), 3);
    let model = load(&reference, Folder::default(), &LoadOptions::default());
    let prompt = [5, 17, 40];
    let options = GenerateOptions { max_tokens: 50, ..GenerateOptions::default() };
    let mut session = model.session(64).unwrap();
    let ids: Vec<u32> = session.generate_ids(&prompt, &options).unwrap().map(|t| t.unwrap().id).collect();
    assert_eq!(ids, reference.greedy(&prompt, 50)[prompt.len()..]);
}

/// The configs that transformers writes, changed at one place.
fn parse(change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) -> Result<Config, Error> {
    let mut config = serde_json::from_str(&ReferenceConfig::tiny().config_json()).unwrap();
    change(&mut config);
    Config::from_bytes(serde_json::to_string(&config).unwrap().as_bytes(), None)
}

#[test]
fn settings_that_are_not_implemented_are_refused() {
    use serde_json::json;
    let refused = [
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("hidden_act", json!("gelu")),
        ("quantization_config", json!({ "quant_method": "gptq" })),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 4.0 })),
        ("partial_rotary_factor", json!(0.5)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("architectures", json!(["Qwen2ForCausalLM"])),
        ("vocab_size", json!((1 << 22) + 1)),
    ];
    for (name, value) in refused {
        let error = parse(|c| drop(c.insert(name.into(), value.clone()))).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error}");
    }
}

#[test]
fn rotary_settings_that_contradict_each_other_are_refused() {
    use serde_json::json;
    let both = parse(|c| {
        c.insert("rope_parameters".into(), json!({ "rope_type": "default" }));
        c.insert("rope_scaling".into(), json!({ "rope_type": "linear", "factor": 8.0 }));
    });
    assert!(matches!(both, Err(Error::Format { .. })), "{both:?}");
    let nested = json!({ "full_attention": { "rope_type": "linear", "factor": 8.0 } });
    let nested = parse(|c| drop(c.insert("rope_parameters".into(), nested.clone())));
    assert!(matches!(nested, Err(Error::Unsupported { .. })), "{nested:?}");
    let families = parse(|c| drop(c.insert("model_type".into(), json!("llama"))));
    assert!(matches!(families, Err(Error::Unsupported { .. })), "{families:?}");
}

/// Loads the weights of `stored` with the config of `described`.
fn mixed(stored: &ReferenceConfig, described: &ReferenceConfig) -> Result<Model<CpuBackend>, Error> {
    let path = tempfile::tempdir().unwrap();
    let tokenizer = std::fs::read(TOKENIZER).unwrap();
    let folder = Folder { tokenizer: Some(&tokenizer), ..Folder::default() };
    ReferenceModel::random(stored.clone(), 1).write_folder(path.path(), folder).unwrap();
    std::fs::write(path.path().join("config.json"), described.config_json()).unwrap();
    Model::load(&Arc::new(CpuBackend::new()), path.path(), &LoadOptions::default())
}

#[test]
fn weights_that_the_config_has_no_place_for_are_refused() {
    let tiny = ReferenceConfig::tiny();
    let deeper = ReferenceConfig { n_layers: 3, ..tiny.clone() };
    let error = mixed(&deeper, &tiny).unwrap_err().to_string();
    assert!(error.contains("model.layers.2."), "{error}");
    let tied = ReferenceConfig { tie_word_embeddings: true, ..tiny.clone() };
    let error = mixed(&tiny, &tied).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight"), "{error}");
    let error = mixed(&tiny, &deeper).unwrap_err().to_string();
    assert!(error.contains("model.layers.2."), "a missing one: {error}");
    let wider = ReferenceConfig { intermediate_size: 50, ..tiny.clone() };
    let error = mixed(&tiny, &wider).unwrap_err().to_string();
    assert!(error.contains("[48, 32]") && error.contains("[50, 32]"), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    use serde_json::json;
    let wrong = [
        ("rms_norm_eps", json!(-1.0)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(0)),
        ("rope_theta", json!("10000")),
        ("rope_scaling", json!([1])),
        ("rope_scaling", json!({ "rope_type": "linear" })),
        ("rope_scaling", json!({ "rope_type": "linear", "factor": -2 })),
        ("eos_token_id", json!(-1)),
        ("eos_token_id", json!([1, "x"])),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("hidden_size", json!(1e308)),
    ];
    for (name, value) in wrong {
        let error = parse(|c| drop(c.insert(name.into(), value.clone()))).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{name}: {error}");
    }
}

#[test]
fn absent_and_null_settings_mean_what_they_mean_to_transformers() {
    use serde_json::Value;
    let plain = parse(|_| {}).unwrap();
    assert_eq!(plain.shape.sliding_window, None);
    let absent = |name: &'static str| parse(move |c| drop(c.remove(name))).unwrap();
    let null = |name: &'static str| parse(move |c| drop(c.insert(name.into(), Value::Null))).unwrap();
    assert_eq!(absent("sliding_window").shape.sliding_window, Some(4096), "Mistral's default");
    assert_eq!(null("sliding_window").shape.sliding_window, None);
    assert_eq!(absent("num_key_value_heads").shape.n_kv_heads, 4);
    assert_eq!(null("num_key_value_heads").shape.n_kv_heads, 4);
    assert_eq!(absent("head_dim").shape.head_dim, 8);
    assert_eq!(null("head_dim").shape.head_dim, 8);
    assert!(absent("eos_token_id").eos_token_ids.is_empty());
    let generation = br#"{ "eos_token_id": [7, 9] }"#;
    let config =
        Config::from_bytes(ReferenceConfig::tiny().config_json().as_bytes(), Some(generation)).unwrap();
    assert_eq!(config.eos_token_ids, [7, 9]);
}
