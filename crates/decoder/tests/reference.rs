//! The decoder against the f64 reference of the whole model, over the settings that both families have.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use backend_api::Error;
use backend_cpu::CpuBackend;
use conformance::decoder::cases::{Logits, Settings, Stored, some};
use conformance::decoder::{Folder, ReferenceConfig, ReferenceModel};
use decoder::{Config, GenerateOptions, LoadOptions, Model};

const TOKENIZER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare/tokenizer.json");

fn load(reference: &ReferenceModel, folder: Folder<'_>, options: &LoadOptions) -> Model<CpuBackend> {
    let path = tempfile::tempdir().unwrap();
    let tokenizer = std::fs::read(TOKENIZER).unwrap();
    reference.write_folder(path.path(), Folder { tokenizer: Some(&tokenizer), ..folder }).unwrap();
    Model::load(&Arc::new(CpuBackend::new()), path.path(), options).unwrap()
}

/// See [`conformance::decoder::cases::Runner`].
fn run(stored: Stored<'_>, settings: Settings, ids: &[u32]) -> Result<[Logits; 3], String> {
    let path = tempfile::tempdir().unwrap();
    stored.write(path.path()).unwrap();
    let Settings { dtype, cache, chunk, context, first } = settings;
    let (dtype, kv_dtype, prefill_chunk) = (Some(dtype), Some(cache), Some(chunk));
    let options = LoadOptions { dtype, kv_dtype, prefill_chunk, ..LoadOptions::default() };
    let model = Model::load(&Arc::new(CpuBackend::new()), path.path(), &options).unwrap();
    let all: Vec<usize> = (first..ids.len()).collect();
    let batch = |wanted: &[usize]| model.session(context).unwrap().logits(ids, wanted).unwrap();
    let mut session = model.session(context).unwrap();
    session.logits(&ids[..first], &[]).unwrap();
    let single = ids[first..].iter().map(|id| session.step_logits(*id).unwrap()).collect();
    Ok([batch(&all), single, batch(&some(ids.len()))])
}

conformance::decoder_suite!(&run);

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
