//! Model folders, written and read byte by byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use backend_api::DType;
use serde_json::{Map, Value, json};

use super::{ReferenceModel, Weight};
use crate::host::{decode, encode};

/// How a model folder is written.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// Type of the stored weights.
    pub dtype: DType,
    /// 1 for `model.safetensors`; more for that many shards and an index.
    pub shards: usize,
    /// `config.json` with `rope_parameters`.
    pub new_config: bool,
    /// Contents of `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
}

impl Default for Folder<'_> {
    fn default() -> Self {
        Self { dtype: DType::F32, shards: 1, new_config: false, tokenizer: None }
    }
}

fn name_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::U32 => "U32",
        _ => "F32",
    }
}

/// A safetensors file: header length (u64, little-endian), JSON header, data.
fn write_tensors<'w>(tensors: impl Iterator<Item = (&'w String, &'w Weight)>, dtype: DType) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    for (name, weight) in tensors {
        let start = data.len();
        weight.data.iter().for_each(|v| encode(dtype, *v, &mut data));
        let entry = json!({
            "dtype": name_of(dtype), "shape": weight.shape, "data_offsets": [start, data.len()],
        });
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// The tensors of a safetensors file, widened to f64.
///
/// # Errors
/// What is wrong with the file.
pub fn read_tensors(bytes: &[u8]) -> Result<BTreeMap<String, Weight>, String> {
    let length = bytes.first_chunk::<8>().ok_or("no header length")?;
    let end = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|n| n.checked_add(8));
    let (header, data) =
        end.and_then(|end| Some((bytes.get(8..end)?, bytes.get(end..)?))).ok_or("cut header")?;
    let header: Map<String, Value> = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    tensors.map(|(name, entry)| read_tensor(&entry, data).map(|w| (name, w))).collect()
}

fn read_tensor(entry: &Value, data: &[u8]) -> Result<Weight, String> {
    let wrong = || format!("bad entry {entry}");
    let numbers = |field: &str| -> Option<Vec<usize>> {
        entry[field].as_array()?.iter().map(|v| v.as_u64().and_then(|v| usize::try_from(v).ok())).collect()
    };
    let (shape, offsets) = (numbers("shape").ok_or_else(wrong)?, numbers("data_offsets").ok_or_else(wrong)?);
    let [start, end] = offsets.as_slice() else { return Err(wrong()) };
    let bytes = data.get(*start..*end).ok_or_else(wrong)?;
    let data: Vec<f64> = match entry["dtype"].as_str() {
        Some("F32") => decode(DType::F32, bytes),
        Some("F16") => decode(DType::F16, bytes),
        Some("BF16") => decode(DType::BF16, bytes),
        Some("I64") => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        _ => return Err(wrong()),
    };
    if data.len() == shape.iter().product::<usize>() { Ok(Weight { shape, data }) } else { Err(wrong()) }
}

impl ReferenceModel {
    /// The model as one safetensors file, its weights rounded to `dtype`.
    pub fn safetensors(&self, dtype: DType) -> Vec<u8> {
        write_tensors(self.weights.iter(), dtype)
    }

    /// Writes `config.json`, the weights and, if given, `tokenizer.json` into an existing folder.
    ///
    /// # Errors
    /// What the system answers.
    pub fn write_folder(&self, path: &Path, folder: Folder<'_>) -> io::Result<()> {
        let config = &self.config;
        let config = if folder.new_config { config.config_json_new() } else { config.config_json() };
        fs::write(path.join("config.json"), config)?;
        if let Some(tokenizer) = folder.tokenizer {
            fs::write(path.join("tokenizer.json"), tokenizer)?;
        }
        if folder.shards <= 1 {
            return fs::write(path.join("model.safetensors"), self.safetensors(folder.dtype));
        }
        let (mut map, mut total) = (Map::new(), 0);
        for shard in 0..folder.shards {
            let file = format!("model-{:05}-of-{:05}.safetensors", shard + 1, folder.shards);
            let part = self.weights.iter().skip(shard).step_by(folder.shards);
            total += part.clone().map(|(_, w)| w.data.len() * folder.dtype.block_bytes()).sum::<usize>();
            map.extend(part.clone().map(|(name, _)| (name.clone(), json!(file))));
            fs::write(path.join(&file), write_tensors(part, folder.dtype))?;
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        fs::write(path.join("model.safetensors.index.json"), index.to_string())
    }
}
