//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use backend_api::{Error, Result};
use serde::Deserialize;

use super::source::Source;
use super::unique::{Unique, json_error};

/// Longest index that is read; the largest published ones take a few MiB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// What an index says.
pub(super) struct Index {
    /// File of each tensor.
    pub(super) weight_map: BTreeMap<String, String>,
    /// Bytes of all tensors, as whoever wrote the index counted them.
    pub(super) total_size: Option<u64>,
}

impl Index {
    /// The files, each once.
    pub(super) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    metadata: serde_json::Value,
    weight_map: Unique<String>,
}

/// Reads the index and refuses file names that could lead out of its folder.
pub(super) fn read(path: &Path) -> Result<Index> {
    let source = Source::open(path)?;
    if source.len() > MAX_INDEX_BYTES {
        let reason = format!("{} bytes, but an index has at most {MAX_INDEX_BYTES}", source.len());
        return Err(Error::format(path, reason));
    }
    let mut text = vec![0; source.len() as usize];
    source.read_at("the index", 0, &mut text)?;
    let json: Json = serde_json::from_slice(&text).map_err(|e| json_error(path, 0, &text, &e))?;
    let Unique(weight_map) = json.weight_map;
    if weight_map.is_empty() {
        return Err(Error::format(path, "`weight_map` names no tensor"));
    }
    let index = Index { weight_map, total_size: json.metadata.get("total_size").and_then(|v| v.as_u64()) };
    if let Some(name) = index.shards().into_iter().find(|name| !is_plain_file_name(name)) {
        let name = name.escape_debug();
        let reason = format!("`{name}` is not the plain name of a .safetensors file in this folder");
        return Err(Error::format(path, reason));
    }
    Ok(index)
}

/// Whether `name` stays in the folder on every system: no separator, drive, stream or control character, and the
/// ending rules out `.`, `..` and the empty name.
fn is_plain_file_name(name: &str) -> bool {
    name.strip_suffix(".safetensors").is_some_and(|stem| !stem.is_empty())
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for good in ["model-00001-of-00002.safetensors", "a..b.safetensors", "ü.safetensors"] {
            assert!(is_plain_file_name(good), "{good}");
        }
        let bad = [
            "",
            ".",
            "..",
            ".safetensors",
            "model.bin",
            "../x.safetensors",
            "/etc/passwd",
            "/x.safetensors",
            "a/../../b.safetensors",
            "a\\b.safetensors",
            "C:x.safetensors",
            "a\0.safetensors",
            "a.safetensors\0",
            "a.safetensors/",
            "a\n.safetensors",
        ];
        for name in bad {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}
