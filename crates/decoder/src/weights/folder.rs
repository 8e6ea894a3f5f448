//! Which file of a Hugging Face folder holds the weights.

use std::io;
use std::path::{Path, PathBuf};

use backend_api::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Endings of the weight files that people have and that this reader does not take.
const OTHER_FORMATS: [&str; 10] =
    [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz"];

/// How many files of a folder are looked at, and how many of them an error names.
const LISTED: usize = 10_000;
const NAMED: usize = 3;

/// The file to begin with.
pub(super) enum Found {
    /// All weights in one file.
    Single(PathBuf),
    /// A list of the files that hold the weights.
    Index(PathBuf),
}

/// Looks for `model.safetensors`, then for `model.safetensors.index.json`.
pub(super) fn find(folder: &Path) -> Result<Found> {
    let metadata = folder.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Io {
            path: folder.to_path_buf(),
            source: io::Error::new(
                error.kind(),
                "there is no such folder; a folder with config.json, tokenizer.json and model.safetensors is needed",
            ),
        },
        _ => Error::io(folder)(error),
    })?;
    if !metadata.is_dir() {
        let reason =
            "is not a folder; give the folder that holds config.json, tokenizer.json and model.safetensors";
        return Err(Error::format(folder, reason));
    }
    for (name, found) in [(SINGLE, Found::Single as fn(PathBuf) -> Found), (INDEX, Found::Index)] {
        let path = folder.join(name);
        // A link that leads nowhere is there, too: opening it says which file is missing.
        match path.symlink_metadata() {
            Ok(_) => return Ok(found(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(path)(error)),
        }
    }
    Err(nothing_found(folder))
}

/// Says what the folder holds instead.
fn nothing_found(folder: &Path) -> Error {
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) => return Error::io(folder)(error),
    };
    let names = entries.take(LISTED).filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()));
    let (mut others, mut tensors) = (Vec::new(), Vec::new());
    for name in names {
        let lower = name.to_lowercase();
        if OTHER_FORMATS.iter().any(|ending| lower.ends_with(ending)) {
            others.push(name);
        } else if lower.ends_with(".safetensors") {
            tensors.push(name);
        }
    }
    if !others.is_empty() {
        return Error::Unsupported {
            what: format!("{}: the weight format of {}", folder.display(), list(others)),
            supported: format!("safetensors as {SINGLE} or {INDEX}"),
        };
    }
    let found = if tensors.is_empty() { String::new() } else { format!("; found {} instead", list(tensors)) };
    Error::format(folder, format!("holds no weights: neither {SINGLE} nor {INDEX} is there{found}"))
}

fn list(mut names: Vec<String>) -> String {
    names.sort();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let shown = names.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
