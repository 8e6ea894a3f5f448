//! The binary on a GPU.

use serde_json::Value;

use crate::run::{golden, golden_texts, tiny_arg, torchless};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_gpu_is_listed() {
    let list: Value = serde_json::from_str(&torchless(["devices", "--json"]).ok()).unwrap();
    let gpu = &list[0];
    assert_eq!(gpu["device"], "cuda:0", "{list}");
    assert_eq!(gpu["chosen"], true, "{list}");
    let features = gpu["features"].as_array().unwrap();
    assert!(features.iter().any(|f| f.as_str().unwrap().starts_with("compute capability ")), "{list}");
    let (free, total) = (gpu["free_memory"].as_u64().unwrap(), gpu["total_memory"].as_u64().unwrap());
    assert!(free > 0 && free <= total, "{list}");
    assert!(gpu["product_library"].as_str().unwrap().contains("cuBLAS"), "{list}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn golden_files_pass_in_every_type() {
    let model = tiny_arg();
    for dtype in ["f32", "bf16", "f16"] {
        for i in 0..4 {
            let file = golden(i);
            let args = ["verify", "--device", "cuda", "--model", &model, "--golden", &file, "--dtype", dtype];
            let text = torchless(args).ok();
            assert!(text.ends_with("\nok\n"), "{text}");
            if dtype == "f32" {
                assert!(text.contains("all 64 ids as expected"), "{text}");
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn golden_texts_are_exact() {
    let model = tiny_arg();
    for (prompt, text) in golden_texts() {
        let args = ["generate", "--device", "cuda", "--model", &model, "--dtype", "f32", "--echo"];
        let greedy = ["--temperature", "0", "--max-tokens", "64", "--prompt", &prompt];
        assert_eq!(torchless(args.iter().chain(&greedy)).ok(), text);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_benchmark_runs() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    let args = ["bench", "--device", "cuda:0", "--prompt-tokens", "8,40", "--depth", "0", "--generate", "12"];
    let text =
        torchless(args.iter().chain(&["--dtype", "f32", "--repeat", "1", "--json", json.to_str().unwrap()]))
            .ok();
    let parts = [
        "cuda: ",
        "cuBLAS",
        "tok/s",
        "GB/s",
        "peak of ",
        "read bandwidth",
        "first token ms",
        "kernels, libraries",
    ];
    for part in parts.into_iter().chain(["slow: attention of a prompt: f32"]) {
        assert!(text.contains(part), "{text}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let per_step = &report["decode"][0]["per_step"];
    for (counter, most) in [("allocations", 0.0), ("writes", 0.0), ("reads", 1.0)] {
        assert!(per_step[counter].as_f64().unwrap() <= most, "{report}");
    }
}

/// The probes of the bandwidth take up to 8 GiB, which are no part of it.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_memory_of_a_benchmark_is_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    let args = ["bench", "--device", "cuda:0", "--shape", "llama-3.2-1b", "--prompt-tokens", "40"];
    let short = ["--depth", "0", "--generate", "4", "--repeat", "1", "--json", json.to_str().unwrap()];
    torchless(args.iter().chain(&short)).ok();
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let ratio = report["high_water_bytes"].as_f64().unwrap() / report["estimated_bytes"].as_f64().unwrap();
    assert!((0.99..1.01).contains(&ratio), "{report}");
}
