//! The benchmark and its files.

use std::fs;

use serde_json::Value;
use torchless::{EstimateRequest, ModelShape, WeightDtype};

use crate::run::{tiny_arg, torchless};

const QUICK: [&str; 11] = [
    "bench",
    "--device",
    "cpu",
    "--prompt-tokens",
    "8,40",
    "--depth",
    "0,100",
    "--generate",
    "6",
    "--repeat",
    "2",
];

#[test]
fn results_are_printed_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let (json, plot) = (folder.path().join("r.json"), folder.path().join("r.svg"));
    let files =
        ["--json", json.to_str().unwrap(), "--plot", plot.to_str().unwrap(), "--shape", "tiny-shakespeare"];
    let text = torchless(QUICK.iter().chain(&files)).ok();
    let parts =
        ["tok/s", "GB/s", "read bandwidth", "TFLOP/s", "peak of own kernels", "allocs", "first token ms"];
    for part in parts.into_iter().chain(["beyond weights", "tiny-shakespeare"]) {
        assert!(text.contains(part), "{text}");
    }
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(report["complete"], true);
    assert_eq!(report["dtype"], "bf16");
    assert_eq!(report["peak_of"], "own kernels", "the CPU backend calls no library");
    assert_eq!(report["parameters"], 3_475_712);
    assert!(report["threads"].as_u64().unwrap() > 0);
    assert!(!report["machine"].as_str().unwrap().is_empty());
    let of = |list: &str, key: &str| -> Vec<Value> {
        report[list].as_array().unwrap().iter().map(|entry| entry[key].clone()).collect()
    };
    assert_eq!(of("prompt", "tokens"), [8, 40]);
    assert_eq!(of("decode", "depth"), [0, 100]);
    for (list, samples) in [("prompt", 2), ("decode", 12)] {
        assert!(of(list, "seconds").iter().all(|s| s.as_array().unwrap().len() == samples), "{report}");
    }
    for first in report["prompt"].as_array().unwrap() {
        assert_eq!(first["first_token_seconds"].as_array().unwrap().len(), 2);
        assert!(first["first_token"].as_f64().unwrap() > 0.0);
    }
    for prompt in report["prompt"].as_array().unwrap() {
        let number = |key: &str| prompt[key].as_f64().unwrap();
        let speed = number("tokens_per_second") * number("flops_per_token");
        let share = speed / report["product_peak"].as_f64().unwrap();
        assert!((number("peak_share") / share - 1.0).abs() < 1e-9);
    }
    assert_eq!(report["slow_paths"], serde_json::json!([]), "the CPU has no other kernels");
    assert_eq!(report["device_bytes"], Value::Null, "the CPU has no memory of its own");
    let kv_bytes = 2 * 4 * 2 * 64 * 2 * report["context"].as_u64().unwrap();
    assert_eq!(report["model_bytes"], 2 * 3_475_712 + kv_bytes);
    // Weights but for the unused rows of the embedding table, and keys and values up to the middle of the run.
    let weights = (3_475_712 - 1023 * 256) * 2;
    let kv_row = 2 * 4 * 2 * 64 * 2;
    assert_eq!(of("decode", "bytes_per_token"), [weights + 4 * kv_row, weights + 104 * kv_row]);
    for decode in report["decode"].as_array().unwrap() {
        let number = |key: &str| decode[key].as_f64().unwrap();
        let speed = number("tokens_per_second") * number("bytes_per_token");
        assert!((number("bytes_per_second") / speed - 1.0).abs() < 1e-9);
        let share = speed / report["read_bandwidth"].as_f64().unwrap();
        assert!((number("bandwidth_share") / share - 1.0).abs() < 1e-9);
        assert_eq!(decode["per_step"]["allocations"], 0.0);
        assert_eq!(decode["per_step"]["reads"], 1.0);
    }
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    for part in ["tokens per second", ">100</text>", "<rect ", "GB/s", "peak of own kernels"] {
        assert!(svg.contains(part), "{svg}");
    }
}

#[test]
fn memory_is_as_estimated() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    torchless(QUICK.iter().chain(&["--json", json.to_str().unwrap(), "--context", "700", "--dtype", "f32"]))
        .ok();
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let request = EstimateRequest {
        shape: &ModelShape::named("tiny-shakespeare").unwrap(),
        dtype: WeightDtype::F32,
        kv_dtype: WeightDtype::F32,
        context: 700,
        batch: 1,
        prefill_chunk: 512,
        activation_bytes: 4,
    };
    let expected = request.estimate().unwrap().total();
    assert_eq!(report["estimated_bytes"], expected);
    let ratio = report["high_water_bytes"].as_f64().unwrap() / expected as f64;
    assert!((0.99..1.01).contains(&ratio), "{ratio}");
}

#[test]
fn a_prompt_that_fills_the_context_has_no_first_token() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    let only = ["bench", "--device", "cpu", "--prompt-tokens", "7,8", "--depth", "0", "--context", "8"];
    torchless(only.iter().chain(&["--generate", "1", "--repeat", "1", "--json", json.to_str().unwrap()]))
        .ok();
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert!(report["prompt"][0]["first_token"].is_f64(), "{report}");
    assert_eq!(report["prompt"][1]["first_token"], Value::Null);
}

#[test]
fn cache_and_chunk_are_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    let asked = ["--kv-dtype", "f16", "--prefill-chunk", "16", "--json", json.to_str().unwrap()];
    let text = torchless(QUICK.iter().chain(&asked)).ok();
    assert!(text.contains(", bf16, KV cache in f16, chunks of 16, loaded in "), "{text}");
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!([&report["dtype"], &report["kv_dtype"]], ["bf16", "f16"]);
    assert_eq!(report["prefill_chunk"], 16);
    let ratio = report["high_water_bytes"].as_f64().unwrap() / report["estimated_bytes"].as_f64().unwrap();
    assert!((0.99..1.01).contains(&ratio), "{ratio}");
}

#[test]
fn a_folder_keeps_its_stored_type() {
    let model = tiny_arg();
    let text = torchless(QUICK.iter().chain(&["--model", &model])).ok();
    assert!(text.contains("tiny-shakespeare") && text.contains("bf16"), "{text}");
}

#[test]
fn entries_beyond_the_context_fail_after_the_others_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    let files = ["--json", json.to_str().unwrap()];
    let asked = ["bench", "--device", "cpu", "--prompt-tokens", "8,2048", "--depth", "5000", "--repeat", "1"];
    let ended = torchless(asked.iter().chain(&files));
    assert!(
        ended.stderr.contains("skipped: prompt 2048") && ended.stderr.contains("skipped: depth 5000"),
        "{ended:?}"
    );
    ended.fails(
        1,
        &[
            "not measured: prompt 2048 needs 2048 positions, the context has 1024; depth 5000 needs 5034",
            "leave it out, or give a larger --context where the model has one",
        ],
    );
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["complete"], true);
    assert_eq!(report["skipped"].as_array().unwrap().len(), 2);
    assert_eq!(report["prompt"][0]["tokens"], 8);
    torchless(["bench", "--prompt-tokens", "2048", "--depth", "5000"])
        .fails(2, &["nothing to measure", "1024"]);
}

#[test]
fn entries_of_the_default_that_do_not_fit_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("r.json");
    let args = ["bench", "--device", "cpu", "--generate", "2", "--repeat", "1", "--context", "600"];
    let ended = torchless(args.iter().chain(&["--json", json.to_str().unwrap()]));
    assert_eq!(ended.stderr, "");
    ended.ok();
    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let of = |list: &str, key: &str| -> Vec<Value> {
        report[list].as_array().unwrap().iter().map(|entry| entry[key].clone()).collect()
    };
    assert_eq!(
        (of("prompt", "tokens"), of("decode", "depth")),
        (vec![512.into()], vec![0.into(), 512.into()])
    );
    assert_eq!(report["skipped"], serde_json::json!([]));
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    // 100 layers of 2^20 by 2^22 weights exceed any machine.
    let folder = crate::run::Folder::new();
    for (field, value) in
        [("hidden_size", 1 << 20), ("intermediate_size", 1 << 22), ("num_hidden_layers", 100)]
    {
        folder.configure(field, value.into());
    }
    torchless(["bench", "--model", folder.arg()]).fails(1, &["does not fit", "MiB"]);
}

#[test]
fn files_that_cannot_be_written_are_found_first() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("missing/r.json");
    let good = folder.path().join("kept.json");
    for option in ["--json", "--plot"] {
        let ended = torchless(QUICK.iter().chain(&[option, bad.to_str().unwrap()]));
        ended.fails(1, &["cannot write", "missing"]);
        assert_eq!(ended.stdout, "");
    }
    fs::write(&good, "old").unwrap();
    torchless(QUICK.iter().chain(&["--json", good.to_str().unwrap(), "--plot", bad.to_str().unwrap()]))
        .fails(1, &[]);
    assert_eq!(fs::read_to_string(good).unwrap(), "old");
}

#[test]
fn wrong_values_are_usage_errors() {
    for (option, value) in [
        ("--shape", "gpt-2"),
        ("--prompt-tokens", "0"),
        ("--prompt-tokens", "1,x"),
        ("--depth", "-1"),
        ("--generate", "0"),
        ("--repeat", "0"),
        ("--context", "0"),
        ("--context", "2000"),
    ] {
        torchless(["bench", &format!("{option}={value}")]).fails(2, &[option]);
    }
    torchless(["bench", "--shape", "mistral-7b", "--model", "x"]).fails(2, &["--model", "--shape"]);
}
