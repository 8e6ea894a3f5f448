//! `estimate`.

use std::fs;

use serde_json::{Value, json};
use torchless::{EstimateRequest, NAMED_SHAPES, WeightDtype};

use crate::run::{Folder, torchless};

fn estimate(args: &[&str]) -> Value {
    let text = torchless(["estimate", "--json"].iter().chain(args)).ok();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn json_has_the_numbers_of_the_library() {
    for (name, shape) in NAMED_SHAPES {
        let (context, types) =
            (700, [("f32", WeightDtype::F32), ("f16", WeightDtype::F16), ("auto", WeightDtype::Bf16)]);
        for (option, dtype) in types {
            let request = EstimateRequest {
                shape,
                dtype,
                kv_dtype: dtype,
                context,
                batch: 3,
                prefill_chunk: 512,
                activation_bytes: 4,
            };
            let expected = request.estimate().unwrap();
            let got = estimate(&["--shape", name, "--dtype", option, "--context", "700", "--batch", "3"]);
            assert_eq!(got["bytes"], serde_json::to_value(&expected).unwrap(), "{name} {option}");
            assert_eq!(got["parameters"], shape.parameters());
            assert_eq!(got["fit"]["needed"], expected.total());
        }
    }
}

#[test]
fn cache_and_chunk_are_what_is_asked_for() {
    let (_, shape) = NAMED_SHAPES.iter().find(|(name, _)| *name == "tiny-shakespeare").unwrap();
    let request = EstimateRequest {
        shape,
        dtype: WeightDtype::Bf16,
        kv_dtype: WeightDtype::F32,
        context: 1024,
        batch: 1,
        prefill_chunk: 16,
        activation_bytes: 4,
    };
    let got = estimate(&["--device", "cpu", "--kv-dtype", "f32", "--prefill-chunk", "16"]);
    assert_eq!(got["bytes"], serde_json::to_value(request.estimate().unwrap()).unwrap());
    assert_eq!([&got["dtype"], &got["kv_dtype"]], ["bf16", "f32"]);
}

#[test]
fn mistral_7b_is_itemised() {
    let text = torchless(["estimate", "--shape", "mistral-7b", "--dtype", "f32", "--context", "4096"]).ok();
    for part in ["7241.7 million", "embeddings", "kv_cache", "1024.00 MiB", "total", "fit"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_folder_needs_only_its_config() {
    let folder = Folder::new();
    let whole = estimate(&["--model", folder.arg()]);
    assert_eq!(whole["dtype"], "bf16");
    assert_eq!(whole["context"], 1024);
    fs::remove_file(folder.file("model.safetensors")).unwrap();
    fs::remove_file(folder.file("tokenizer.json")).unwrap();
    assert_eq!(estimate(&["--model", folder.arg()])["bytes"], whole["bytes"]);
    assert_eq!(estimate(&[])["bytes"], whole["bytes"]);
}

#[test]
fn the_stored_type_is_read_from_the_header_of_a_file_or_of_a_shard() {
    let folder = Folder::new();
    let values = vec![0; 1024 * 256 * 4];
    let table =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1024, 256], &values).unwrap();
    let bytes = safetensors::serialize([("model.embed_tokens.weight", table)], None).unwrap();
    fs::write(folder.file("model.safetensors"), &bytes).unwrap();
    assert_eq!(estimate(&["--model", folder.arg()])["dtype"], "f32");
    fs::rename(folder.file("model.safetensors"), folder.file("a.safetensors")).unwrap();
    let index = json!({"weight_map": {"model.embed_tokens.weight": "a.safetensors"}});
    fs::write(folder.file("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(estimate(&["--model", folder.arg()])["dtype"], "f32");
    assert_eq!(estimate(&["--model", folder.arg(), "--dtype", "f16"])["dtype"], "f16");
}

#[test]
fn wrong_models_and_values_are_errors() {
    torchless(["estimate", "--model", "no/such"]).fails(1, &["no/such"]);
    torchless(["estimate", "--shape", "gpt-2"]).fails(2, &["mistral-7b"]);
    torchless(["estimate", "--context", "1025"]).fails(2, &["--context", "1024"]);
    torchless(["estimate", "--batch", "0"]).fails(2, &["--batch"]);
    let folder = Folder::new();
    folder.configure("model_type", json!("gpt2"));
    folder.configure("architectures", json!(null));
    torchless(["estimate", "--model", folder.arg()]).fails(1, &["gpt2", "mistral", "llama"]);
    folder.configure("model_type", json!("mistral"));
    folder.configure("hidden_size", json!(0));
    torchless(["estimate", "--model", folder.arg()]).fails(1, &["hidden_size"]);
    let folder = Folder::new();
    folder.configure("quantization_config", json!({"quant_method": "awq", "bits": 4}));
    for ended in [torchless(["estimate", "--model", folder.arg()]), folder.generate()] {
        ended.fails(1, &["quantisation by \"awq\" is not supported", "f32, f16 and bf16"]);
    }
}
