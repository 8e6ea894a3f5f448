//! `devices`, and `--device`.

use serde_json::Value;

use crate::run::{Ended, tiny_arg, torchless};

/// Whether the binary can run on a GPU here.
fn gpu_is_usable() -> bool {
    #[cfg(feature = "cuda")]
    let usable = torchless::CudaBackend::is_available();
    #[cfg(not(feature = "cuda"))]
    let usable = false;
    usable
}

fn generate(device: &str) -> Ended {
    let model = tiny_arg();
    torchless(["generate", "--model", &model, "--prompt", "x", "--max-tokens", "1", "--device", device])
}

#[test]
fn devices_are_those_of_the_library() {
    let text = torchless(["devices"]).ok();
    let list: Value = serde_json::from_str(&torchless(["devices", "--json"]).ok()).unwrap();
    let found = torchless::devices();
    assert_eq!(list.as_array().unwrap().len(), found.len());
    for (device, candidate) in list.as_array().unwrap().iter().zip(&found) {
        assert_eq!(device["backend"], candidate.backend);
        assert_eq!(device["device"], candidate.preference.to_string());
        assert_eq!(device["usable"], candidate.is_usable());
        assert_eq!(device["reason"], candidate.reason);
        assert_eq!(device["product_library"], Value::from(candidate.product_library.clone()));
        assert!(text.contains(&candidate.reason), "{text}");
    }
    assert!(text.contains("threads: "), "{text}");
}

#[test]
fn auto_takes_the_first_that_is_usable() {
    let list: Value = serde_json::from_str(&torchless(["devices", "--json"]).ok()).unwrap();
    let chosen: Vec<_> = list.as_array().unwrap().iter().filter(|d| d["chosen"] == true).collect();
    let [chosen] = chosen[..] else { panic!("not one is chosen: {list}") };
    let expected = if gpu_is_usable() { "cuda:0" } else { "cpu" };
    assert_eq!(chosen["device"], expected, "{list}");
    let ended = generate("auto");
    assert!(ended.stderr.contains(&format!(" on {} (", chosen["backend"].as_str().unwrap())), "{ended:?}");
    ended.ok();
}

#[test]
fn a_gpu_that_is_not_there_is_never_replaced() {
    let missing = if gpu_is_usable() { &["cuda:1000"][..] } else { &["cuda", "cuda:0", "cuda:1000"] };
    for device in missing {
        let ended = generate(device);
        ended.fails(1, &["`cuda` is unavailable"]);
        assert_eq!(ended.stdout, "");
        torchless(["estimate", "--device", device]).fails(1, &["`cuda` is unavailable"]);
    }
}

#[cfg(feature = "cuda")]
#[test]
fn what_keeps_the_gpu_from_being_used_is_said() {
    let expected = torchless::CudaBackend::with_device(1000).unwrap_err().to_string();
    generate("cuda:1000").fails(1, &[&expected]);
    if !gpu_is_usable() {
        let why = torchless::CudaBackend::new().unwrap_err().to_string();
        generate("cuda").fails(1, &[&why]);
        assert!(torchless(["devices"]).ok().contains(&format!("cuda:0  not usable: {why}")));
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    generate("cuda").fails(1, &["this build has no CUDA backend", "`cpu`"]);
    assert!(torchless(["devices"]).ok().contains("not usable: backend `cuda` is unavailable: this build"));
}
