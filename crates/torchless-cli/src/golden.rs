//! Files with reference logits and reference tokens.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::failure::Failure;

/// Longest file that is read.
const MAX_BYTES: u64 = 4 << 30;

/// What the model should give.
#[derive(Debug)]
pub(crate) struct Golden {
    /// Token ids of the prompt.
    pub(crate) input_ids: Vec<u32>,
    /// Positions whose logits are known.
    pub(crate) positions: Vec<usize>,
    /// Their logits, one row of the vocabulary each.
    pub(crate) logits: Vec<Vec<f64>>,
    /// A prompt's ids followed by those that are most likely after it.
    pub(crate) greedy: Option<Greedy>,
}

/// Ids of a prompt and of its greedy continuation.
#[derive(Debug)]
pub(crate) struct Greedy {
    /// Both.
    pub(crate) ids: Vec<u32>,
    /// How many are the prompt's.
    pub(crate) prompt_len: usize,
}

impl Golden {
    /// Reads a file and checks that a model of this vocabulary and context can run it.
    ///
    /// # Errors
    /// Says which tensor is wrong, and how.
    pub(crate) fn read(path: &Path, vocab_size: usize, max_context: usize) -> Result<Self, Failure> {
        let of_file = |what: String| Failure::Failed(format!("{}: {what}", path.display()));
        let bytes = read_bounded(path).map_err(of_file)?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| of_file(format!("is not a whole safetensors file: {e}; make it again")))?;
        Self::parse(&tensors, vocab_size, max_context).map_err(of_file)
    }

    fn parse(tensors: &SafeTensors<'_>, vocab_size: usize, max_context: usize) -> Result<Self, String> {
        let input_ids = ids(tensors, "input_ids", vocab_size)?;
        let positions = positions(tensors, input_ids.len())?;
        let logits = logits(tensors, positions.len(), vocab_size)?;
        let greedy = match tensors.names().contains(&"greedy") {
            true => Some(Greedy::parse(tensors, vocab_size)?),
            false => None,
        };
        let needed = input_ids.len().max(greedy.as_ref().map_or(0, |g| g.ids.len()));
        if needed > max_context {
            return Err(format!("needs a context of {needed}, but the model's maximum is {max_context}"));
        }
        Ok(Self { input_ids, positions, logits, greedy })
    }

    /// Positions that a session needs for it.
    pub(crate) fn context(&self) -> usize {
        self.input_ids.len().max(self.greedy.as_ref().map_or(0, |g| g.ids.len()))
    }
}

impl Greedy {
    fn parse(tensors: &SafeTensors<'_>, vocab_size: usize) -> Result<Self, String> {
        let ids = ids(tensors, "greedy", vocab_size)?;
        let [prompt_len] = integers(tensors, "greedy_prompt_len")?[..] else {
            return Err("`greedy_prompt_len` must hold one number".into());
        };
        match usize::try_from(prompt_len).ok().filter(|n| (1..ids.len()).contains(n)) {
            Some(prompt_len) => Ok(Self { ids, prompt_len }),
            None => {
                let most = ids.len() - 1;
                Err(format!("`greedy_prompt_len` is {prompt_len}, but must lie between 1 and {most}"))
            }
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    // Asked before opening: opening a FIFO waits for a writer.
    let metadata = path.metadata().map_err(|e| format!("{e}; give a file of reference logits"))?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err("is not a file of at most 4 GiB; give a file of reference logits".into());
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|e| e.to_string())
}

fn tensor<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, String> {
    tensors.tensor(name).map_err(|_| format!("has no tensor `{name}`; the file is incomplete"))
}

/// A vector of whole numbers.
fn integers(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<i64>, String> {
    let view = tensor(tensors, name)?;
    if view.shape().len() != 1 {
        return Err(format!("`{name}` has shape {:?}, but must be a vector", view.shape()));
    }
    match view.dtype() {
        Dtype::I64 => Ok(elements(view.data(), i64::from_le_bytes)),
        Dtype::I32 => Ok(elements(view.data(), |b| i64::from(i32::from_le_bytes(b)))),
        Dtype::U32 => Ok(elements(view.data(), |b| i64::from(u32::from_le_bytes(b)))),
        other => Err(format!("`{name}` is {other:?}, but must be I64, I32 or U32")),
    }
}

fn elements<const N: usize, T>(data: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|bytes| of(*bytes)).collect()
}

/// Token ids, at least one.
fn ids(tensors: &SafeTensors<'_>, name: &str, vocab_size: usize) -> Result<Vec<u32>, String> {
    let numbers = integers(tensors, name)?;
    if numbers.is_empty() {
        return Err(format!("`{name}` is empty, but must hold token ids"));
    }
    let id = |(i, number): (usize, &i64)| {
        let id = u32::try_from(*number).ok().filter(|id| (*id as usize) < vocab_size);
        id.ok_or_else(|| {
            let vocab = format!("outside the model's vocabulary of {vocab_size}");
            format!("`{name}`, element {i}: token id {number} is {vocab}; it belongs to another model")
        })
    };
    numbers.iter().enumerate().map(id).collect()
}

fn positions(tensors: &SafeTensors<'_>, ids: usize) -> Result<Vec<usize>, String> {
    let numbers = integers(tensors, "positions")?;
    if numbers.is_empty() {
        return Err("`positions` is empty, so there is nothing to compare".into());
    }
    let position = |number: &i64| {
        let position = usize::try_from(*number).ok().filter(|p| *p < ids);
        position.ok_or_else(|| format!("`positions` has {number}, but `input_ids` has {ids} elements"))
    };
    numbers.iter().map(position).collect()
}

fn logits(tensors: &SafeTensors<'_>, rows: usize, vocab_size: usize) -> Result<Vec<Vec<f64>>, String> {
    let view = tensor(tensors, "logits")?;
    if view.shape() != [rows, vocab_size] {
        let needed = format!("{:?} is needed, by `positions` and the model's vocabulary", [rows, vocab_size]);
        return Err(format!("`logits` has shape {:?}, but {needed}", view.shape()));
    }
    let values: Vec<f64> = match view.dtype() {
        Dtype::F64 => elements(view.data(), f64::from_le_bytes),
        Dtype::F32 => elements(view.data(), |b| f64::from(f32::from_le_bytes(b))),
        other => return Err(format!("`logits` is {other:?}, but must be F32 or F64")),
    };
    if values.iter().any(|v| !v.is_finite()) || values.iter().all(|v| *v == 0.0) {
        return Err("`logits` are not finite, or all 0; make the file again".into());
    }
    Ok(values.chunks(vocab_size.max(1)).map(<[f64]>::to_vec).collect())
}
