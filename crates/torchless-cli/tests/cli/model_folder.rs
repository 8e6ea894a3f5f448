//! Damaged model folders.

use std::fs;

use serde_json::json;

use crate::run::{Folder, torchless};

#[test]
fn a_missing_folder_is_named() {
    torchless(["generate", "--prompt", "x", "--model", "no/such/folder"])
        .fails(1, &["no/such/folder", "folder with"]);
    let folder = Folder::new();
    let file = folder.file("config.json");
    let said = |path: &str| torchless(["generate", "--prompt", "x", "--model", path]).stderr;
    let path = file.to_str().unwrap();
    assert_eq!(said(path), format!("error: {path}: is a file; give its folder, {}\n", folder.arg()));
    let gguf = folder.file("model.GGUF");
    fs::write(&gguf, "GGUF").unwrap();
    let needed = "--model needs a folder with config.json, tokenizer.json and model.safetensors";
    let path = gguf.to_str().unwrap();
    assert_eq!(said(path), format!("error: {path}: GGUF is not read; {needed}\n"));
    let name = "nobody/Nothing-7B";
    let fetch = format!("for example with `hf download {name} --local-dir {name}`");
    assert_eq!(
        said(name),
        format!(
            "error: {name}: there is no such folder, and nothing is downloaded; fetch the model first, {fetch}\n"
        )
    );
    // Two names of which the first is a folder are a path.
    assert_eq!(said("src/Nothing-7B"), format!("error: src/Nothing-7B: there is no such folder; {needed}\n"));
}

#[test]
fn a_tokenizer_in_another_format_must_be_converted() {
    let folder = Folder::new();
    fs::rename(folder.file("tokenizer.json"), folder.file("tokenizer.model")).unwrap();
    folder.generate().fails(1, &["tokenizer.json: there is only a tokenizer.model", "convert it"]);
}

#[test]
fn pointers_of_git_lfs_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    for (name, what) in [("model.safetensors", "weights"), ("tokenizer.json", "tokenizer")] {
        let folder = Folder::new();
        fs::write(folder.file(name), pointer).unwrap();
        let path = folder.file(name);
        let said = format!(
            "error: {}: a pointer of Git LFS instead of the {what}; run `git lfs pull` in its folder\n",
            path.display()
        );
        assert_eq!(folder.generate().stderr, said);
    }
}

#[test]
fn the_whole_folder_works() {
    let ended = Folder::new().generate();
    assert_eq!(ended.status, Some(0), "{ended:?}");
}

#[test]
fn a_missing_file_is_named() {
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let folder = Folder::new();
        fs::remove_file(folder.file(name)).unwrap();
        folder.generate().fails(1, &[name]);
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    for name in ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"] {
        let folder = Folder::new();
        fs::write(folder.file(name), "no JSON").unwrap();
        folder.generate().fails(1, &[name]);
    }
}

#[test]
fn truncated_weights_are_an_error() {
    let whole = fs::read(Folder::new().file("model.safetensors")).unwrap();
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        let folder = Folder::new();
        fs::write(folder.file("model.safetensors"), &whole[..len]).unwrap();
        folder.generate().fails(1, &["model.safetensors"]);
    }
}

#[test]
fn a_lying_header_is_an_error() {
    let whole = fs::read(Folder::new().file("model.safetensors")).unwrap();
    let spoil = |change: &dyn Fn(&mut Vec<u8>)| {
        let folder = Folder::new();
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(folder.file("model.safetensors"), bytes).unwrap();
        folder.generate().fails(1, &["model.safetensors"]);
    };
    spoil(&|bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    spoil(&|bytes| bytes[..8].copy_from_slice(&90_000_000_u64.to_le_bytes()));
    spoil(&|bytes| bytes[..8].copy_from_slice(&5_u64.to_le_bytes()));
    spoil(&|bytes| {
        // Offsets of a tensor of 512 bytes that claim another length.
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap();
        let at = 8 + text.find("\"shape\":[256]").unwrap();
        bytes[at..at + 13].copy_from_slice(b"\"shape\":[999]");
    });
}

#[test]
fn a_config_that_is_refused_is_one_sentence() {
    let families = "MistralForCausalLM, LlamaForCausalLM";
    for (field, value, said) in [
        (
            "architectures",
            json!(["Qwen2ForCausalLM"]),
            format!("architecture \"Qwen2ForCausalLM\" is not supported; supported: {families}"),
        ),
        (
            "attention_bias",
            json!(true),
            "attention_bias = true is not supported; supported: models without biases".into(),
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "quantisation by \"gptq\" is not supported; supported: weights in f32, f16 and bf16".into(),
        ),
        ("hidden_size", json!("256"), "PATH: hidden_size is \"256\", but must be a whole number".into()),
        (
            "hidden_size",
            json!(null),
            "PATH: has no hidden_size; add it, or use a Hugging Face model folder that is complete".into(),
        ),
    ] {
        let folder = Folder::new();
        folder.configure(field, value);
        let said = said.replace("PATH", folder.file("config.json").to_str().unwrap());
        assert_eq!(folder.generate().stderr, format!("error: {said}\n"));
    }
    let folder = Folder::new();
    fs::write(folder.file("config.json"), "no JSON").unwrap();
    let said =
        format!("{}: is not valid: expected ident at line 1 column 2", folder.file("config.json").display());
    assert_eq!(folder.generate().stderr, format!("error: {said}\n"));
}

/// Cuts the folder's weights into one shard of this name, as the index says.
fn shard(folder: &Folder, name: &str) {
    let bytes = fs::read(folder.file("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let map: serde_json::Map<_, _> = tensors.names().iter().map(|n| ((*n).to_owned(), json!(name))).collect();
    let index = json!({"metadata": {}, "weight_map": map});
    fs::write(folder.file("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_must_lie_in_the_folder() {
    let folder = Folder::new();
    shard(&folder, "model-00001-of-00001.safetensors");
    fs::rename(folder.file("model.safetensors"), folder.file("model-00001-of-00001.safetensors")).unwrap();
    assert_eq!(folder.generate().status, Some(0));
    for name in ["../model.safetensors", "sub/../../model.safetensors", "/etc/passwd", "..", ""] {
        let folder = Folder::new();
        shard(&folder, name);
        fs::remove_file(folder.file("model.safetensors")).unwrap();
        folder.generate().fails(1, &["model.safetensors.index.json"]);
    }
    let folder = Folder::new();
    shard(&folder, "missing.safetensors");
    fs::remove_file(folder.file("model.safetensors")).unwrap();
    folder.generate().fails(1, &["missing.safetensors"]);
}

#[test]
fn shapes_that_disagree_with_the_config_are_errors() {
    for (field, value) in
        [("hidden_size", 128), ("intermediate_size", 700), ("num_hidden_layers", 5), ("vocab_size", 1000)]
    {
        let folder = Folder::new();
        folder.configure(field, json!(value));
        folder.generate().fails(1, &["model.safetensors"]);
    }
}

#[test]
fn an_unknown_architecture_names_those_that_are_known() {
    let folder = Folder::new();
    folder.configure("architectures", json!(["GPT2LMHeadModel"]));
    folder.configure("model_type", json!("gpt2"));
    folder.generate().fails(1, &["GPT2LMHeadModel", "MistralForCausalLM", "LlamaForCausalLM"]);
}

#[test]
fn settings_that_are_not_supported_are_never_ignored() {
    for (field, value) in [
        ("attention_bias", json!(true)),
        ("hidden_act", json!("gelu")),
        ("rope_parameters", json!({"rope_type": "yarn", "factor": 4.0})),
        ("quantization_config", json!({"quant_method": "awq"})),
    ] {
        let folder = Folder::new();
        folder.configure(field, value);
        folder.generate().fails(1, &["not supported"]);
    }
}
