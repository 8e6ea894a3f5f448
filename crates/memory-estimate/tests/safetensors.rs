//! Reading safetensors headers: what is inferred, what is summed, and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of the tests may panic as the tests do")]

use memory_estimate::{
    EstimateError, MAX_POSITIONS, ModelShape, StoredDtype, read_safetensors_header, stored_bytes,
    stored_tensors,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

type Tensors = Vec<(String, Vec<u64>)>;

/// The tensors of a model as Hugging Face names them.
fn model(shape: &ModelShape) -> Tensors {
    let [hidden, ffn, vocab] =
        [shape.hidden_size, shape.intermediate_size, shape.vocab_size].map(|n| n as u64);
    let q = (shape.n_heads * shape.head_dim) as u64;
    let kv = (shape.n_kv_heads * shape.head_dim) as u64;
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !shape.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
    }
    for layer in 0..shape.n_layers {
        let weights = [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, q]),
            ("mlp.gate_proj", vec![ffn, hidden]),
            ("mlp.up_proj", vec![ffn, hidden]),
            ("mlp.down_proj", vec![hidden, ffn]),
        ];
        for (name, dims) in weights {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), dims));
        }
    }
    tensors
}

/// A bf16 header with the tensors laid one after the other.
fn header(tensors: &Tensors) -> String {
    let mut end = 0;
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for (name, dims) in tensors {
        let begin = end;
        end += 2 * dims.iter().product::<u64>();
        entries.insert(name.clone(), json!({"dtype": "BF16", "shape": dims, "data_offsets": [begin, end]}));
    }
    Value::Object(entries).to_string()
}

fn infer(tensors: &Tensors, head_dim: usize) -> Result<ModelShape, EstimateError> {
    ModelShape::from_safetensors_header(header(tensors).as_bytes(), head_dim)
}

fn tiny() -> ModelShape {
    ModelShape::named("tiny-shakespeare").unwrap()
}

#[test]
fn every_named_shape_is_inferred_from_its_tensors() {
    for name in ModelShape::names() {
        let shape = ModelShape { max_position_embeddings: MAX_POSITIONS, ..ModelShape::named(name).unwrap() };
        let tensors = model(&shape);
        assert_eq!(infer(&tensors, shape.head_dim).unwrap(), shape, "{name}");
        assert_eq!(stored_bytes(header(&tensors).as_bytes()).unwrap(), shape.parameters() * 2, "{name}");
    }
}

#[test]
fn shards_are_inferred_together_and_not_alone() {
    let mut first = model(&tiny());
    let second = first.split_off(20);
    let stored = |tensors: &Tensors| stored_tensors(header(tensors).as_bytes()).unwrap();
    let both = [stored(&first), stored(&second)].concat();
    assert_eq!(ModelShape::from_stored_tensors(&both, 64).unwrap().parameters(), tiny().parameters());
    // The first shard looks like a model of two layers, so only its weights' number tells.
    let error = infer(&first, 64).unwrap_err();
    assert!(matches!(error, EstimateError::NotWhole { .. }), "{error}");
    let error = infer(&second, 64).unwrap_err();
    assert!(matches!(error, EstimateError::MissingTensor { .. }), "{error}");
}

#[test]
fn a_model_is_whole_and_nothing_else() {
    let whole = model(&tiny());
    for gone in ["model.norm.weight", "model.layers.3.mlp.down_proj.weight"] {
        let mut tensors = whole.clone();
        tensors.retain(|(name, _)| name != gone);
        let error = infer(&tensors, 64).unwrap_err();
        assert!(matches!(error, EstimateError::NotWhole { .. }), "{gone}: {error}");
    }
    let mut more = whole.clone();
    more.push(("vision_tower.weight".to_owned(), vec![8, 8]));
    let error = infer(&more, 64).unwrap_err();
    let expected = tiny().parameters();
    assert!(
        matches!(error, EstimateError::NotWhole { stored, expected: e } if (stored, e) == (expected + 64, expected)),
        "{error}"
    );
    let mut old = whole;
    old.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vec![32]));
    assert_eq!(infer(&old, 64).unwrap().parameters(), expected);
}

#[test]
fn a_head_dim_that_does_not_fit_is_refused() {
    for head_dim in [0, 7, 96, 256, usize::MAX] {
        let error = infer(&model(&tiny()), head_dim).unwrap_err();
        assert!(matches!(error, EstimateError::Invalid { .. }), "{head_dim}: {error}");
    }
    assert_eq!(infer(&model(&tiny()), 32).unwrap().n_heads, 8);
}

/// The tiny model with one tensor's dimensions replaced.
fn tampered(name: &str, dims: &[u64]) -> EstimateError {
    let mut tensors = model(&tiny());
    tensors.iter_mut().find(|(known, _)| known == name).unwrap().1 = dims.to_vec();
    infer(&tensors, 64).unwrap_err()
}

#[test]
fn dimensions_that_disagree_are_refused() {
    let cases: [(&str, &[u64]); 7] = [
        ("model.embed_tokens.weight", &[1024, 257]),
        ("model.embed_tokens.weight", &[1024]),
        ("lm_head.weight", &[1025, 256]),
        ("model.layers.0.mlp.gate_proj.weight", &[704, 255]),
        ("model.layers.3.mlp.gate_proj.weight", &[705, 256]),
        ("model.layers.2.self_attn.q_proj.weight", &[128, 256]),
        ("model.layers.1.self_attn.k_proj.weight", &[2, 64, 256]),
    ];
    for (name, dims) in cases {
        let error = tampered(name, dims);
        assert!(matches!(error, EstimateError::Tensor { .. }), "{name} {dims:?}: {error}");
    }
    let error = tampered("model.embed_tokens.weight", &[0, 256]);
    assert!(matches!(error, EstimateError::Tensor { .. }), "{error}");
}

#[test]
fn missing_layers_and_weights_are_named() {
    for gone in
        ["model.layers.0.", "model.layers.2.", "model.layers.3.self_attn.k_proj", "model.embed_tokens"]
    {
        let mut tensors = model(&tiny());
        tensors.retain(|(name, _)| !name.starts_with(gone));
        let error = infer(&tensors, 64).unwrap_err();
        assert!(
            matches!(&error, EstimateError::MissingTensor { tensor } if tensor.starts_with(gone)),
            "{gone}: {error}"
        );
    }
    let error = infer(&Vec::new(), 64).unwrap_err();
    assert!(matches!(error, EstimateError::MissingTensor { .. }), "{error}");
}

#[test]
fn a_far_layer_index_costs_nothing() {
    let mut tensors = model(&tiny());
    tensors.push((format!("model.layers.{}.mlp.gate_proj.weight", usize::MAX), vec![704, 256]));
    let error = infer(&tensors, 64).unwrap_err();
    assert!(matches!(error, EstimateError::MissingTensor { .. }), "{error}");
}

#[test]
fn biases_are_refused() {
    let mut tensors = model(&tiny());
    tensors.push(("model.layers.0.self_attn.q_proj.bias".to_owned(), vec![256]));
    let error = infer(&tensors, 64).unwrap_err();
    assert!(matches!(error, EstimateError::UnsupportedWeights { .. }), "{error}");
}

#[test]
fn each_dtype_has_its_width() {
    let dtypes = [
        ("BOOL", 8),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("I16", 16),
        ("U16", 16),
        ("F16", 16),
        ("BF16", 16),
        ("I32", 32),
        ("U32", 32),
        ("F32", 32),
        ("C64", 64),
        ("F64", 64),
        ("I64", 64),
        ("U64", 64),
    ];
    for (name, bits) in dtypes {
        let dtype: StoredDtype = serde_json::from_value(json!(name)).unwrap();
        assert_eq!((dtype.bits(), serde_json::to_value(dtype).unwrap()), (bits, json!(name)));
        let text = json!({"t": {"dtype": name, "shape": [3, 8], "data_offsets": [0, 3 * bits]}}).to_string();
        assert_eq!(stored_bytes(text.as_bytes()).unwrap(), 3 * bits, "{name}");
    }
}

#[test]
fn tensors_are_summed_as_stored() {
    let text = r#"{"b":{"dtype":"F32","shape":[],"data_offsets":[6,10]},
        "a":{"dtype":"F16","shape":[3],"data_offsets":[0,6]},
        "e":{"dtype":"F16","shape":[0,7],"data_offsets":[10,10]}}   "#;
    let tensors = stored_tensors(text.as_bytes()).unwrap();
    let seen: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.bytes)).collect();
    let expected = [("a", StoredDtype::F16, 6), ("b", StoredDtype::F32, 4), ("e", StoredDtype::F16, 0)];
    assert_eq!(seen, expected);
    assert_eq!(stored_bytes(text.as_bytes()).unwrap(), 10);
}

#[test]
fn lying_headers_are_refused() {
    let cases = [
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
    ];
    for text in cases {
        let error = stored_bytes(text.as_bytes()).unwrap_err();
        assert!(matches!(error, EstimateError::Tensor { .. }), "{text}: {error}");
    }
}

#[test]
fn headers_that_are_not_headers_are_refused() {
    let cases = [
        "",
        "[]",
        "null",
        r#"{"a":1}"#,
        r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1e308],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}}"#,
    ];
    for text in cases {
        let error = stored_bytes(text.as_bytes()).unwrap_err();
        assert!(matches!(error, EstimateError::Json { .. }), "{text}: {error}");
    }
}

/// A file with this announced length and content.
fn file(length: u64, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&length.to_le_bytes()).unwrap();
    file.write_all(content).unwrap();
    (folder, path)
}

#[test]
fn a_file_is_read_up_to_its_header() {
    let text = header(&model(&tiny()));
    let content = [text.as_bytes(), &[0xff; 100]].concat();
    let (_folder, path) = file(text.len() as u64, &content);
    assert_eq!(read_safetensors_header(&path).unwrap(), text.as_bytes());
    let shape = ModelShape::from_safetensors_file(&path, 64).unwrap();
    assert_eq!(shape, ModelShape { max_position_embeddings: MAX_POSITIONS, ..tiny() });
}

#[test]
fn files_that_lie_about_their_header_are_refused() {
    for length in [3, 100_000_001, u64::MAX, u64::MAX - 7] {
        let (_folder, path) = file(length, b"{}");
        let error = read_safetensors_header(&path).unwrap_err();
        assert!(matches!(error, EstimateError::File { .. }), "{length}: {error}");
    }
    let (folder, path) = file(0, b"");
    assert!(matches!(ModelShape::from_safetensors_file(&path, 64), Err(EstimateError::Json { .. })));
    std::fs::write(&path, [0; 7]).unwrap();
    assert!(matches!(read_safetensors_header(&path), Err(EstimateError::File { .. })));
    assert!(matches!(read_safetensors_header(folder.path()), Err(EstimateError::File { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(read_safetensors_header(&missing), Err(EstimateError::Io { .. })));
}

proptest! {
    #[test]
    fn a_damaged_header_never_panics(at: prop::sample::Index, byte: u8, head_dim: usize) {
        let shape = ModelShape { n_layers: 1, ..tiny() };
        let mut bytes = header(&model(&shape)).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(shape) = ModelShape::from_safetensors_header(&bytes, 64) {
            prop_assert!(shape.validate().is_ok());
        }
        if let Ok(shape) = ModelShape::from_safetensors_header(&bytes, head_dim) {
            prop_assert!(shape.validate().is_ok());
        }
        prop_assert!(stored_bytes(&bytes[..at]).is_err());
    }
}
