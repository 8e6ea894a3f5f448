//! Reading `config.json`: old and new forms, defaults, and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of the tests may panic as the tests do")]

use memory_estimate::{EstimateError, ModelShape};
use proptest::prelude::*;
use serde_json::{Value, json};

const NEW_FORM: &str = r#"{
  "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 0,
  "dtype": "bfloat16", "eos_token_id": 1, "head_dim": 64, "hidden_act": "silu", "hidden_size": 256,
  "intermediate_size": 704, "max_position_embeddings": 1024, "model_type": "mistral",
  "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "pad_token_id": null,
  "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
  "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 1024
}"#;

const OLD_FORM: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "llama",
  "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
  "rope_scaling": {"rope_type": "llama3", "factor": 32.0}, "rope_theta": 500000.0,
  "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256
}"#;

/// The old form with one field set.
fn with(field: &str, value: Value) -> String {
    let mut config: Value = serde_json::from_str(OLD_FORM).unwrap();
    config[field] = value;
    config.to_string()
}

/// The old form with one field taken out.
fn without(field: &str) -> String {
    let mut config: Value = serde_json::from_str(OLD_FORM).unwrap();
    config.as_object_mut().unwrap().remove(field).unwrap();
    config.to_string()
}

#[test]
fn both_forms_give_the_named_shapes() {
    let read = |text: &str| Some(ModelShape::from_config_json(text).unwrap());
    assert_eq!(read(NEW_FORM), ModelShape::named("tiny-shakespeare"));
    assert_eq!(read(OLD_FORM), ModelShape::named("llama-3.2-1b"));
    assert_eq!(ModelShape::from_config_json(NEW_FORM.as_bytes()).ok(), read(NEW_FORM));
}

#[test]
fn absent_and_null_fall_back_alike() {
    for text in [without("num_key_value_heads"), with("num_key_value_heads", Value::Null)] {
        assert_eq!(ModelShape::from_config_json(text).unwrap().n_kv_heads, 32);
    }
    for text in [without("tie_word_embeddings"), with("tie_word_embeddings", Value::Null)] {
        assert!(!ModelShape::from_config_json(text).unwrap().tie_word_embeddings);
    }
    assert_eq!(ModelShape::from_config_json(with("head_dim", Value::Null)).unwrap().head_dim, 64);
    assert_eq!(ModelShape::from_config_json(with("head_dim", json!(128))).unwrap().head_dim, 128);
}

#[test]
fn head_dim_that_cannot_be_derived_is_refused() {
    for heads in [0, 3] {
        let error = ModelShape::from_config_json(with("num_attention_heads", json!(heads))).unwrap_err();
        assert!(matches!(error, EstimateError::Invalid { .. }), "{error}");
    }
}

#[test]
fn the_window_is_read_for_mistral_only() {
    let window = |text: String| ModelShape::from_config_json(text).unwrap().sliding_window;
    assert_eq!(window(NEW_FORM.replace(r#""sliding_window": null"#, r#""sliding_window": 512"#)), Some(512));
    assert_eq!(window(NEW_FORM.replace(r#""sliding_window": null,"#, "")), None);
    assert_eq!(window(with("sliding_window", json!(512))), None);
}

#[test]
fn one_of_model_type_and_architectures_suffices() {
    for text in [without("model_type"), without("architectures"), with("architectures", json!([]))] {
        assert_eq!(ModelShape::from_config_json(text).unwrap().n_layers, 16);
    }
    let neither = without("model_type").replace("LlamaForCausalLM", "");
    assert!(ModelShape::from_config_json(neither).is_err());
    let error = ModelShape::from_config_json("{}").unwrap_err();
    assert!(matches!(error, EstimateError::MissingField { field: "model_type" }), "{error}");
}

#[test]
fn other_families_are_refused_by_name() {
    let texts = [
        with("model_type", json!("qwen2")),
        with("architectures", json!(["Qwen2ForCausalLM"])),
        with("architectures", json!(["LlamaForSequenceClassification"])),
    ];
    for text in texts {
        let error = ModelShape::from_config_json(text).unwrap_err();
        assert!(matches!(error, EstimateError::UnsupportedFamily { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("mistral") && message.contains("llama"), "{message}");
    }
}

#[test]
fn biases_are_refused() {
    for field in ["attention_bias", "mlp_bias"] {
        let error = ModelShape::from_config_json(with(field, json!(true))).unwrap_err();
        assert!(matches!(error, EstimateError::UnsupportedWeights { .. }), "{error}");
        assert!(ModelShape::from_config_json(with(field, json!(false))).is_ok());
    }
}

#[test]
fn quantised_weights_are_refused() {
    for (quantised, method) in [(json!({"quant_method": "gptq", "bits": 4}), "gptq"), (json!({}), "unknown")]
    {
        let error = ModelShape::from_config_json(with("quantization_config", quantised)).unwrap_err();
        let expected = format!(
            "config.json: quantisation by \"{method}\" is not supported; supported are weights in f32, f16 and bf16"
        );
        assert_eq!(error.to_string(), expected);
    }
    assert!(ModelShape::from_config_json(with("quantization_config", Value::Null)).is_ok());
}

#[test]
fn required_fields_are_named_when_missing() {
    let required =
        ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads"];
    for name in required {
        for text in [without(name), with(name, Value::Null)] {
            let error = ModelShape::from_config_json(text).unwrap_err();
            assert!(matches!(error, EstimateError::MissingField { field } if field == name), "{error}");
        }
    }
}

#[test]
fn numbers_of_the_wrong_kind_are_refused() {
    let values = [
        json!(-1),
        json!(2048.0),
        json!(2048.5),
        json!("2048"),
        json!(true),
        json!([2048]),
        json!({"a": 1}),
        serde_json::from_str("1e308").unwrap(),
        serde_json::from_str("18446744073709551616").unwrap(),
    ];
    let fields =
        ["hidden_size", "num_key_value_heads", "head_dim", "max_position_embeddings", "num_hidden_layers"];
    for name in fields {
        for value in &values {
            let error = ModelShape::from_config_json(with(name, value.clone())).unwrap_err();
            assert!(matches!(error, EstimateError::Field { field, .. } if field == name), "{value}: {error}");
        }
    }
    let error = ModelShape::from_config_json(with("tie_word_embeddings", json!(1))).unwrap_err();
    assert!(matches!(error, EstimateError::Field { field: "tie_word_embeddings", .. }), "{error}");
}

#[test]
fn a_number_that_is_too_large_is_refused_by_the_shape() {
    let error = ModelShape::from_config_json(with("num_hidden_layers", json!(u64::MAX))).unwrap_err();
    assert!(matches!(error, EstimateError::Invalid { field: "n_layers", .. }), "{error}");
}

#[test]
fn errors_stay_one_short_line() {
    let long = "x\n".repeat(100_000);
    for text in [with("model_type", json!(long)), with("hidden_size", json!(long))] {
        let message = ModelShape::from_config_json(text).unwrap_err().to_string();
        assert!(message.len() < 300 && !message.contains('\n'), "{message}");
    }
}

#[test]
fn text_that_is_not_an_object_is_refused() {
    let deep = "[".repeat(100_000);
    for text in ["", "null", "[]", "7", "{", "{\"hidden_size\": 1e309}", "\u{feff}{}", deep.as_str()] {
        let error = ModelShape::from_config_json(text).unwrap_err();
        assert!(matches!(error, EstimateError::Json { .. }), "{error}");
    }
    assert!(ModelShape::from_config_json([0xff, 0xfe]).is_err());
}

#[test]
fn a_folder_is_read_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let error = ModelShape::from_folder(folder.path()).unwrap_err();
    assert!(matches!(&error, EstimateError::Io { path, .. } if path.ends_with("config.json")), "{error}");

    let path = folder.path().join("config.json");
    std::fs::write(&path, NEW_FORM).unwrap();
    assert_eq!(ModelShape::from_folder(folder.path()).ok(), ModelShape::named("tiny-shakespeare"));

    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    let error = ModelShape::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, EstimateError::File { .. }), "{error}");
    file.set_len(16 << 20).unwrap();
    let error = ModelShape::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, EstimateError::Json { .. }), "{error}");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = ModelShape::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, EstimateError::File { .. }), "{error}");
}

proptest! {
    #[test]
    fn any_number_in_any_field_gives_a_valid_shape_or_an_error(
        index in 0_usize..8,
        value in prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (0_u64..300).prop_map(Value::from),
        ],
    ) {
        let fields = ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size",
            "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"];
        if let Ok(shape) = ModelShape::from_config_json(with(fields[index], value)) {
            prop_assert!(shape.validate().is_ok());
        }
    }

    #[test]
    fn a_damaged_config_never_panics(at in 0_usize..OLD_FORM.len(), byte: u8) {
        let mut bytes = OLD_FORM.as_bytes().to_vec();
        bytes[at] = byte;
        if let Ok(shape) = ModelShape::from_config_json(&bytes) {
            prop_assert!(shape.validate().is_ok());
        }
        prop_assert!(ModelShape::from_config_json(&bytes[..at]).is_err());
    }
}
