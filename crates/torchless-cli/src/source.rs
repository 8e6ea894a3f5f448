//! Where a model comes from: a folder, the binary itself, or the name of a shape.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use torchless::{
    Backend, BackendPreference, Cause, Config, DType, KernelBackend, LoadOptions, Model, ModelBytes,
    ModelShape, Session, StoredDtype, WeightDtype, init_backend_with, read_safetensors_header,
    stored_tensors,
};

use crate::args::SourceArgs;
use crate::failure::Failure;
use crate::output::{Progress, note, one_line};

/// The shape that is taken where none is named.
const DEFAULT_SHAPE: &str = "tiny-shakespeare";

/// The default context where the model could hold more.
const DEFAULT_CONTEXT: usize = 4096;

/// Makes the backend that the command line asks for, and says which device was there and could not be taken.
pub(crate) fn backend(device: BackendPreference, threads: Option<usize>) -> Result<Arc<Backend>, Failure> {
    let options = torchless::BackendOptions { threads };
    let backend = init_backend_with(device, &options)?;
    let taken = backend.report().iter().find(|c| c.is_usable()).map_or(device, |c| c.preference);
    for candidate in backend.report() {
        tracing::debug!(
            backend = candidate.backend,
            usable = candidate.is_usable(),
            reason = candidate.reason
        );
        if !candidate.is_usable() && worth_saying(candidate.cause) {
            let (left, why) = (candidate.preference, &candidate.reason);
            note(&one_line(&format!("{left} cannot be used, taking {taken}: {why}")));
        }
    }
    Ok(Arc::new(backend))
}

/// Whether somebody would miss a device that cannot be used: this build and the machine are made for it.
fn worth_saying(cause: Option<Cause>) -> bool {
    !matches!(cause, Some(Cause::NotBuilt | Cause::NoDriver))
}

/// A model and the settings it comes with, before its weights are loaded.
pub(crate) struct Source<'a> {
    pub(crate) name: String,
    pub(crate) config: Config,
    weights: Weights<'a>,
}

enum Weights<'a> {
    Folder(&'a Path),
    Builtin(ModelBytes),
    Random,
}

impl<'a> Source<'a> {
    /// A folder, or the built-in model.
    pub(crate) fn of_model(folder: Option<&'a Path>) -> Result<Self, Failure> {
        if let Some(folder) = folder {
            return Self::folder(folder);
        }
        let bytes = builtin().ok_or_else(|| {
            Failure::Usage(
                "this build has no built-in model; give --model PATH, or --shape NAME to bench".into(),
            )
        })?;
        let config = Config::from_bytes(&bytes.config, bytes.generation_config.as_deref())?;
        Ok(Self { name: format!("{DEFAULT_SHAPE} (built in)"), config, weights: Weights::Builtin(bytes) })
    }

    /// A folder, or a named shape with random weights.
    pub(crate) fn of_shape(args: &'a SourceArgs) -> Result<Self, Failure> {
        if let Some(folder) = &args.model {
            return Self::folder(folder);
        }
        let (name, shape) = named(args)?;
        Ok(Self { name, config: Config::from_shape(shape), weights: Weights::Random })
    }

    fn folder(folder: &'a Path) -> Result<Self, Failure> {
        is_folder(folder)?;
        let config = Config::from_folder(folder)?;
        has_tokenizer(folder)?;
        Ok(Self { name: base_name(folder), config, weights: Weights::Folder(folder) })
    }

    /// The type that the weights are kept in if none is asked for.
    pub(crate) fn stored_dtype(&self) -> DType {
        match &self.weights {
            Weights::Folder(folder) => stored_dtype(folder),
            Weights::Builtin(_) | Weights::Random => DType::BF16,
        }
    }

    /// Loads the weights, or makes them; shows the progress.
    pub(crate) fn load(
        self,
        backend: &Arc<Backend>,
        options: LoadOptions,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Model<Backend>, Failure> {
        let progress = Progress::of_bytes("loading");
        let shown = progress.clone();
        let options = LoadOptions {
            progress: Some(Arc::new(move |done, total| shown.set(done, total))),
            cancel: Some(cancel.clone()),
            ..options
        };
        let model = match &self.weights {
            Weights::Folder(folder) => Model::load(backend, folder, &options),
            Weights::Builtin(bytes) => Model::from_bytes(backend, bytes, &options),
            Weights::Random => Model::random(backend, self.config, 1, &options),
        };
        progress.finish();
        Ok(model?)
    }
}

/// The type of a model's weights, and of its cache where that is another.
pub(crate) fn types(model: &Model<Backend>) -> String {
    match (model.dtype(), model.kv_dtype()) {
        (weights, cache) if weights == cache => weights.to_string(),
        (weights, cache) => format!("{weights}, KV cache in {cache}"),
    }
}

/// The context that is asked for, or the default.
///
/// # Errors
/// One that the model was not made for.
pub(crate) fn context(asked: Option<usize>, shape: &ModelShape) -> Result<usize, Failure> {
    let most = shape.max_position_embeddings;
    match asked {
        None => Ok(most.min(DEFAULT_CONTEXT)),
        Some(context) if (1..=most).contains(&context) => Ok(context),
        Some(context) => {
            let range = format!("give a number from 1 to the model's maximum, {most}");
            Err(Failure::Usage(format!("--context: {context} positions are not possible; {range}")))
        }
    }
}

/// Feeds ids in chunks, with a progress bar, and gives the logits at the positions of the conversation that `wanted`
/// names.
///
/// # Errors
/// [`Failure::Interrupted`] between two chunks, and those of [`Session::logits`].
pub(crate) fn feed(
    session: &mut Session<Backend>,
    ids: &[u32],
    wanted: &[usize],
    cancel: &AtomicBool,
) -> Result<Vec<Vec<f32>>, Failure> {
    let progress = Progress::counting("reading the prompt");
    let mut rows = vec![Vec::new(); wanted.len()];
    let mut first = session.tokens().len();
    let start = first;
    let chunk = session.model().prefill_chunk().max(1);
    for part in ids.chunks(chunk) {
        if cancel.load(Relaxed) {
            progress.finish();
            return Err(Failure::Interrupted);
        }
        let fed = first..first + part.len();
        let (slots, positions): (Vec<_>, Vec<_>) =
            wanted.iter().copied().enumerate().filter(|(_, position)| fed.contains(position)).unzip();
        for (slot, row) in slots.into_iter().zip(session.logits(part, &positions)?) {
            if let Some(place) = rows.get_mut::<usize>(slot) {
                *place = row;
            }
        }
        first = fed.end;
        progress.set((first - start) as u64, ids.len() as u64);
    }
    progress.finish();
    Ok(rows)
}

/// A named shape and its name.
pub(crate) fn named(args: &SourceArgs) -> Result<(String, ModelShape), Failure> {
    let name = args.shape.as_deref().unwrap_or(DEFAULT_SHAPE);
    let shape = ModelShape::named(name)
        .ok_or_else(|| Failure::Usage(format!("--shape: there is no shape {name}")))?;
    Ok((name.to_owned(), shape))
}

/// Refuses what is not a folder, and says what would be one.
pub(crate) fn is_folder(folder: &Path) -> Result<(), Failure> {
    let needed = "--model needs a folder with config.json, tokenizer.json and model.safetensors";
    let problem = match folder.metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) if folder.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) => {
            format!("GGUF is not read; {needed}")
        }
        Ok(_) => {
            let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            format!("is a file; give its folder, {}", parent.display())
        }
        Err(e) if e.kind() != ErrorKind::NotFound => format!("{e}; {needed}"),
        Err(_) => match repository(folder) {
            Some(name) => format!(
                "there is no such folder, and nothing is downloaded; fetch the model first, for example with `hf \
                 download {name} --local-dir {name}`"
            ),
            None => format!("there is no such folder; {needed}"),
        },
    };
    Err(Failure::Failed(format!("{}: {problem}", folder.display())))
}

/// The path as the name of a repository, OWNER/NAME, where it can be one and no folder OWNER is here.
fn repository(path: &Path) -> Option<&str> {
    let names = path.components().all(|part| matches!(part, Component::Normal(_)));
    let owner = path.parent().filter(|_| names && path.components().count() == 2)?;
    if owner.exists() { None } else { path.to_str() }
}

/// Refuses a folder whose tokenizer is in another format, or still to be fetched; what else is wrong with it is found when it
/// is loaded.
fn has_tokenizer(folder: &Path) -> Result<(), Failure> {
    const POINTER: &[u8] = b"version https://git-lfs";
    let path = folder.join("tokenizer.json");
    let problem = match path.metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound && folder.join("tokenizer.model").exists() => {
            "there is only a tokenizer.model, which is not read; convert it: in Python, \
             `transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
        }
        // Opening a FIFO waits for a writer.
        Ok(found) if found.is_file() => {
            let mut start = Vec::new();
            let read = File::open(&path).and_then(|f| f.take(POINTER.len() as u64).read_to_end(&mut start));
            if read.is_err() || start != POINTER {
                return Ok(());
            }
            "a pointer of Git LFS instead of the tokenizer; run `git lfs pull` in its folder"
        }
        _ => return Ok(()),
    };
    Err(Failure::Failed(format!("{}: {problem}", path.display())))
}

/// The folder's own name.
pub(crate) fn base_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    full.file_name().map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The type of the embedding table in the folder's safetensors file; bf16 where that cannot be told.
pub(crate) fn stored_dtype(folder: &Path) -> DType {
    read_stored_dtype(folder).unwrap_or(DType::BF16)
}

/// Largest index of shards that is read.
const MAX_INDEX_BYTES: u64 = 64 << 20;

fn read_stored_dtype(folder: &Path) -> Option<DType> {
    const TENSOR: &str = "model.embed_tokens.weight";
    let single = folder.join("model.safetensors");
    let file = if single.is_file() {
        single
    } else {
        let index = folder.join("model.safetensors.index.json");
        if index.metadata().ok()?.len() > MAX_INDEX_BYTES {
            return None;
        }
        let index: serde_json::Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
        let shard = Path::new(index.get("weight_map")?.get(TENSOR)?.as_str()?);
        // Only a plain name lies in the folder.
        (shard.file_name()? == shard).then(|| folder.join(shard))?
    };
    let tensors = stored_tensors(&read_safetensors_header(&file).ok()?).ok()?;
    match tensors.iter().find(|t| t.name == TENSOR)?.dtype {
        StoredDtype::F32 => Some(DType::F32),
        StoredDtype::F16 => Some(DType::F16),
        StoredDtype::Bf16 => Some(DType::BF16),
        _ => None,
    }
}

/// The estimate's name of a type of weights.
pub(crate) fn weight_dtype(dtype: DType) -> WeightDtype {
    match dtype {
        DType::F16 => WeightDtype::F16,
        DType::BF16 => WeightDtype::Bf16,
        _ => WeightDtype::F32,
    }
}

/// Bytes of one activation of the backend that runs weights of this type.
pub(crate) fn activation_bytes(backend: &Backend, dtype: DType) -> usize {
    backend.activation_dtype(dtype).bytes(1).unwrap_or(4)
}

/// Bytes that a model may take of the device's memory, where known; what the backend holds already is part of what a model
/// needs.
pub(crate) fn available(backend: &Backend) -> Option<u64> {
    let memory = backend.memory();
    memory.free.map(|free| free.saturating_add(memory.in_use))
}

#[cfg(feature = "builtin-model")]
#[expect(clippy::unnecessary_wraps, reason = "a build without the model has none")]
fn builtin() -> Option<ModelBytes> {
    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!("../models/tiny-shakespeare/", $name)).as_slice().into()
        };
    }
    Some(ModelBytes {
        config: file!("config.json"),
        generation_config: Some(file!("generation_config.json")),
        tokenizer: file!("tokenizer.json"),
        weights: file!("model.safetensors"),
    })
}

#[cfg(not(feature = "builtin-model"))]
fn builtin() -> Option<ModelBytes> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_fails_is_missed_and_one_that_is_not_there_is_not() {
        for cause in [Cause::OldDriver, Cause::DriverFailed, Cause::NoDevice, Cause::StubDriver] {
            assert!(worth_saying(Some(cause)), "{cause:?}");
        }
        // Out of memory, or a lost device.
        assert!(worth_saying(None));
        assert!(!worth_saying(Some(Cause::NoDriver)) && !worth_saying(Some(Cause::NotBuilt)));
    }
}
