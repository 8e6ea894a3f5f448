//! The reference decoder against transformers' logits of a trained model, its files against the safetensors crate.
#![expect(clippy::unwrap_used, reason = "helpers of the tests may panic as the tests do")]

use std::fs;
use std::path::PathBuf;

use backend_api::DType;
use conformance::decoder::{Folder, ModelType, ReferenceConfig, ReferenceModel, RopeScaling, read_tensors};
use conformance::tolerance::nmse;
use safetensors::SafeTensors;

fn shakespeare() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../torchless-cli/models/tiny-shakespeare")
}

fn shakespeare_model() -> ReferenceModel {
    let config = ReferenceConfig {
        hidden_size: 256,
        intermediate_size: 704,
        n_layers: 4,
        vocab_size: 1024,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        max_position_embeddings: 1024,
        ..ReferenceConfig::tiny()
    };
    let bytes = fs::read(shakespeare().join("model.safetensors")).unwrap();
    ReferenceModel::from_safetensors(config, &bytes).unwrap()
}

#[test]
fn logits_and_greedy_ids_are_those_of_transformers() {
    let model = shakespeare_model();
    for n in 0..4 {
        let golden = fs::read(shakespeare().join(format!("golden-{n}.safetensors"))).unwrap();
        let golden = read_tensors(&golden).unwrap();
        let ids = |name: &str| golden[name].data.iter().map(|id| *id as u32).collect::<Vec<_>>();
        let all = model.logits(&ids("input_ids"));
        let got: Vec<f64> = ids("positions").iter().flat_map(|p| all[*p as usize].clone()).collect();
        let error = nmse(&got, &golden["logits"].data);
        assert!(error <= 1e-12, "golden-{n}: NMSE {error:e}");
        let (greedy, prompt) = (ids("greedy"), ids("greedy_prompt_len")[0] as usize);
        assert_eq!(model.greedy(&greedy[..prompt], greedy.len() - prompt), greedy, "golden-{n}");
    }
}

/// Logits of some ids.
fn logits(config: &ReferenceConfig) -> Vec<Vec<f64>> {
    ReferenceModel::random(config.clone(), 5).logits(&[3, 1, 4, 1, 5, 9, 2, 6])
}

#[test]
fn every_constant_matters() {
    let base = ReferenceConfig::tiny();
    let reference = logits(&base);
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let changed = [
        ReferenceConfig { rms_norm_eps: 0.1, ..base.clone() },
        ReferenceConfig { rope_theta: 500.0, ..base.clone() },
        ReferenceConfig { rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }), ..base.clone() },
        ReferenceConfig { rope_scaling: Some(llama3), ..base.clone() },
        ReferenceConfig { sliding_window: Some(3), ..base.clone() },
        ReferenceConfig { tie_word_embeddings: true, ..base.clone() },
    ];
    for config in changed {
        let error = nmse(&logits(&config).concat(), &reference.concat());
        assert!(error > 1e-6, "{config:?}: NMSE {error:e}");
    }
    let wide = ReferenceConfig { sliding_window: Some(8), ..base };
    assert_eq!(logits(&wide), reference);
}

#[test]
fn a_window_forgets_what_lies_before_it() {
    // Each layer reaches one window further back: here 2 · (3 − 1) positions.
    let config = ReferenceConfig { sliding_window: Some(3), ..ReferenceConfig::tiny() };
    let model = ReferenceModel::random(config, 1);
    let last = |ids: &[u32]| model.logits(ids).pop().unwrap();
    assert_eq!(last(&[7, 1, 2, 3, 4, 5]), last(&[9, 1, 2, 3, 4, 5]));
    assert_ne!(last(&[0, 7, 2, 3, 4, 5]), last(&[0, 9, 2, 3, 4, 5]));
}

#[test]
fn logits_are_of_order_one_and_attention_looks_back() {
    for tie_word_embeddings in [false, true] {
        let config = ReferenceConfig { tie_word_embeddings, ..ReferenceConfig::tiny() };
        let model = ReferenceModel::random(config, 2);
        let logits = model.logits(&[1, 2, 3, 4]).concat();
        let power = logits.iter().map(|v| v * v).sum::<f64>() / logits.len() as f64;
        assert!((0.2..5.0).contains(&power), "{power}");
        let (a, b) = (model.logits(&[1, 2, 3, 4]), model.logits(&[8, 2, 3, 4]));
        assert!(nmse(&a[3], &b[3]) > 1e-4);
    }
}

#[test]
fn logits_may_start_anywhere() {
    let model =
        ReferenceModel::random(ReferenceConfig { sliding_window: Some(4), ..ReferenceConfig::tiny() }, 6);
    let ids = [3, 1, 4, 1, 5, 9, 2, 6];
    let all = model.logits(&ids);
    for first in [0, 1, 7, 8] {
        assert_eq!(model.logits_from(&ids, first), all[first..], "{first}");
    }
}

#[test]
fn long_contexts_take_seconds() {
    let model = ReferenceModel::random(ReferenceConfig::tiny(), 3);
    let ids: Vec<u32> = (0..4096).map(|i| i * 7 % 61).collect();
    let started = std::time::Instant::now();
    let logits = model.logits(&ids);
    assert_eq!(logits.len(), 4096);
    assert!(logits.iter().flatten().all(|v| v.is_finite()));
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn files_are_read_by_the_safetensors_crate() {
    let model = ReferenceModel::random(ReferenceConfig::tiny(), 4);
    for dtype in DType::FLOATS {
        let bytes = model.safetensors(dtype);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let names = model.config.tensors();
        assert_eq!(tensors.len(), names.len());
        for (name, shape) in names {
            let view = tensors.tensor(&name).unwrap();
            assert_eq!(view.shape(), shape);
            assert_eq!(view.dtype().to_string(), dtype.name().to_uppercase());
        }
        let read = ReferenceModel::from_safetensors(model.config.clone(), &bytes).unwrap();
        assert_eq!(read.logits(&[1, 2, 3]), model.rounded(dtype).logits(&[1, 2, 3]), "{dtype}");
    }
}

#[test]
fn folders_hold_what_they_should() {
    let llama = ReferenceConfig {
        model_type: ModelType::Llama,
        tie_word_embeddings: true,
        rope_scaling: Some(RopeScaling::Linear { factor: 2.0 }),
        ..ReferenceConfig::tiny()
    };
    let model = ReferenceModel::random(llama, 4);
    let folder = tempfile::tempdir().unwrap();
    let options = Folder { shards: 3, new_config: true, tokenizer: Some(b"{}"), ..Folder::default() };
    model.write_folder(folder.path(), options).unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&read("model.safetensors.index.json")).unwrap();
    for (name, shape) in model.config.tensors() {
        let file = read(index["weight_map"][&name].as_str().unwrap());
        assert_eq!(read_tensors(&file).unwrap()[&name].shape, shape);
    }
    let config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    assert_eq!(config["rope_parameters"]["rope_type"], "linear");
    assert_eq!(config["model_type"], "llama");
    let old: serde_json::Value = serde_json::from_str(&model.config.config_json()).unwrap();
    assert_eq!(old["rope_scaling"]["factor"], 2.0);
    assert_eq!(old["rope_theta"], 10_000.0);
    assert_eq!(read("tokenizer.json"), b"{}");
}

#[test]
fn damaged_files_are_errors() {
    let model = ReferenceModel::random(ReferenceConfig::tiny(), 4);
    let bytes = model.safetensors(DType::F32);
    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        assert!(read_tensors(&bytes[..cut]).is_err(), "{cut}");
    }
    let other = ReferenceConfig { vocab_size: 60, ..ReferenceConfig::tiny() };
    assert!(ReferenceModel::from_safetensors(other, &bytes).unwrap_err().contains("embed_tokens"));
}
