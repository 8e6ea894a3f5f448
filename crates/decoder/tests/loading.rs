//! Loading keeps its memory within the weights as stored, a tenth more, and 64 MiB. A program of its own, since it measures
//! the process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::sync::Arc;

use backend_api::DType;
use backend_cpu::CpuBackend;
use decoder::{LoadOptions, Model};

const HIDDEN: usize = 2048;
const FFN: usize = 8192;
const LAYERS: usize = 4;
const VOCAB: usize = 1024;

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Names and shapes of a model of 570 MB in bf16.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]),
    ];
    for i in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("model.layers.{i}.{name}.weight"), shape.to_vec()));
        };
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[HIDDEN, HIDDEN]);
        }
        add("mlp.gate_proj", &[FFN, HIDDEN]);
        add("mlp.up_proj", &[FFN, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, FFN]);
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
    }
    all
}

/// Writes a folder whose weights are all 1; gives the bytes of the weights.
fn write_model(folder: &std::path::Path) -> u64 {
    let tokenizer =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare/tokenizer.json");
    std::fs::copy(tokenizer, folder.join("tokenizer.json")).unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 16, "vocab_size": VOCAB, "max_position_embeddings": 64,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors() {
        let bytes = 2 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({ "dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes] });
        header.insert(name, entry);
        end += bytes;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let ones: Vec<u8> = [0x80, 0x3f].repeat(1 << 20);
    for start in (0..end).step_by(ones.len()) {
        file.write_all(&ones[..ones.len().min(end - start)]).unwrap();
    }
    end as u64
}

#[test]
fn loading_stays_within_the_weights_and_a_little() {
    let folder = tempfile::tempdir().unwrap();
    let stored = write_model(folder.path());
    let before = status("VmRSS");
    let backend = Arc::new(CpuBackend::new());
    for (dtype, held) in [(None, stored), (Some(DType::F16), stored)] {
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let model = Model::load(&backend, folder.path(), &options).unwrap();
        let peak = status("VmHWM") - before;
        assert!(peak >= held, "the weights are there: {peak} of {held}");
        assert!(peak <= stored + stored / 10 + (64 << 20), "{dtype:?}: {peak} bytes for {stored} stored");
        drop(model);
    }
}
