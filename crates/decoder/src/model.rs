//! A model's weights in a backend's memory.

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use backend_api::{DType, Error, KernelBackend, Result, tensor_bytes};
use memory_estimate::ModelShape;

use crate::loader::{Loader, read_spans};
use crate::surplus::refuse_surplus;
use crate::weights::Weights;
use crate::{Config, Session, Tokenizer};

/// How to load a model.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Type that weights are kept in; as stored if absent.
    pub dtype: Option<DType>,
    /// Type of the KV cache; that of the weights if absent.
    pub kv_dtype: Option<DType>,
    /// Prompt tokens that are processed together; [`KernelBackend::prefill_chunk`] if absent.
    pub prefill_chunk: Option<usize>,
    /// Called with bytes done and bytes in all, from several threads.
    pub progress: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
    /// Set it to stop loading with [`Error::Cancelled`].
    pub cancel: Option<Arc<AtomicBool>>,
}

/// The files of a model, in memory.
#[derive(Clone, Debug)]
pub struct ModelBytes {
    /// `config.json`.
    pub config: Cow<'static, [u8]>,
    /// `generation_config.json`, where there is one.
    pub generation_config: Option<Cow<'static, [u8]>>,
    /// `tokenizer.json`.
    pub tokenizer: Cow<'static, [u8]>,
    /// `model.safetensors`.
    pub weights: Cow<'static, [u8]>,
}

/// What loading took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    /// Bytes of the weights on the device.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// A model on a backend. A clone is another handle of the same weights.
pub struct Model<B: KernelBackend> {
    inner: Arc<Inner<B>>,
}

impl<B: KernelBackend> Clone for Model<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<B: KernelBackend> std::fmt::Debug for Model<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("backend", &self.backend().name())
            .field("dtype", &self.dtype())
            .field("config", self.config())
            .finish_non_exhaustive()
    }
}

struct Inner<B: KernelBackend> {
    backend: Arc<B>,
    config: Config,
    tokenizer: Option<Tokenizer>,
    tensors: Tensors<B::Tensor>,
    settings: Settings,
    report: LoadReport,
}

/// What of [`LoadOptions`] outlasts loading, with what is absent filled in.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) dtype: DType,
    pub(crate) kv_dtype: DType,
    pub(crate) prefill_chunk: usize,
}

impl Settings {
    fn new<B: KernelBackend>(backend: &B, dtype: DType, options: &LoadOptions) -> Result<Self> {
        let kv_dtype = options.kv_dtype.unwrap_or(dtype);
        let prefill_chunk = options.prefill_chunk.unwrap_or_else(|| backend.prefill_chunk());
        let wrong = |name, reason| Err(Error::Argument { name, reason });
        if !dtype.is_float() {
            return wrong("dtype", format!("weights cannot be {dtype}"));
        }
        if !kv_dtype.is_float() {
            return wrong("kv_dtype", format!("keys and values cannot be {kv_dtype}"));
        }
        if prefill_chunk == 0 {
            return wrong("prefill_chunk", "must be a positive number".into());
        }
        Ok(Self { dtype, kv_dtype, prefill_chunk })
    }
}

/// What `read` gives, while another thread gets the backend ready.
fn while_preparing<B: KernelBackend, T>(
    backend: &B,
    settings: Settings,
    shape: &ModelShape,
    read: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let workload = settings.workload(backend, shape, default_context(shape));
    thread::scope(|scope| {
        let prepare = || backend.prepare(&workload);
        let other = thread::Builder::new().spawn_scoped(scope, prepare);
        let read = read();
        let prepared = match other {
            Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // The system has no thread to spare.
            Err(_) => prepare(),
        };
        let read = read?;
        prepared.map(|()| read)
    })
}

fn default_context(shape: &ModelShape) -> usize {
    shape.max_position_embeddings.min(4096)
}

pub(crate) struct Tensors<T> {
    pub(crate) embed: T,
    pub(crate) layers: Vec<Layer<T>>,
    pub(crate) norm: T,
    /// Absent when tied to `embed`.
    pub(crate) lm_head: Option<T>,
}

pub(crate) struct Layer<T> {
    pub(crate) attention_norm: T,
    /// Rows of queries, keys, values.
    pub(crate) qkv: T,
    pub(crate) o: T,
    pub(crate) ffn_norm: T,
    /// Rows of gate, then of up.
    pub(crate) gate_up: T,
    pub(crate) down: T,
}

impl<B: KernelBackend> Model<B> {
    /// Loads a Hugging Face folder: `config.json`, `tokenizer.json`, and `model.safetensors` or its sharded index.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] and [`Error::Unsupported`] for the files, [`Error::OutOfMemory`],
    /// [`Error::Cancelled`].
    pub fn load(backend: &Arc<B>, folder: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(Error::format(folder, "is not a folder; give a Hugging Face model folder"));
        }
        let config = Config::from_folder(folder)?;
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        Self::from_weights(backend, config, tokenizer, &Weights::open(folder)?, options)
    }

    /// Loads a model whose files are in memory.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_bytes(backend: &Arc<B>, bytes: &ModelBytes, options: &LoadOptions) -> Result<Self> {
        let config = Config::from_bytes(&bytes.config, bytes.generation_config.as_deref())?;
        let tokenizer = Tokenizer::from_bytes(&bytes.tokenizer)?;
        let weights = Weights::from_bytes("model.safetensors", bytes.weights.clone())?;
        Self::from_weights(backend, config, tokenizer, &weights, options)
    }

    /// A model with random weights made on the device, for benchmarks; bf16 unless `options` say otherwise.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Cancelled`].
    pub fn random(backend: &Arc<B>, config: Config, seed: u64, options: &LoadOptions) -> Result<Self> {
        let settings = Settings::new(&**backend, options.dtype.unwrap_or(DType::BF16), options)?;
        let (dtype, counter) = (settings.dtype, AtomicU64::new(seed));
        let loader = Loader::new(&config, dtype, options)?;
        let make = || {
            loader.tensors(|shape, _| {
                let mut tensor = backend.alloc(shape, dtype)?;
                let fan_in = if shape.len() == 1 { 3 } else { shape[1].max(1) };
                let seed = counter.fetch_add(1, Relaxed);
                backend.fill_random(&mut tensor, seed, (3.0 / fan_in as f32).sqrt())?;
                loader.advance(tensor_bytes(shape, dtype)?)?;
                Ok(tensor)
            })
        };
        let tensors = while_preparing(&**backend, settings, &config.shape, make)?;
        backend.synchronize()?;
        let report = loader.report();
        Ok(Self::assemble(backend, config, None, tensors, settings, report))
    }

    fn from_weights(
        backend: &Arc<B>,
        config: Config,
        tokenizer: Tokenizer,
        weights: &Weights,
        options: &LoadOptions,
    ) -> Result<Self> {
        let stored = weights.info("model.embed_tokens.weight").map(|info| info.dtype);
        let settings = Settings::new(&**backend, options.dtype.or(stored).unwrap_or(DType::F32), options)?;
        let dtype = settings.dtype;
        let loader = Loader::new(&config, dtype, options)?;
        refuse_surplus(&config, weights)?;
        let read = || {
            loader.tensors(|shape, parts| {
                let mut spans = Vec::with_capacity(parts.len());
                let mut end = 0;
                for part in parts {
                    weights.require(&part.name, &part.shape)?;
                    end += tensor_bytes(&part.shape, dtype)?;
                    spans.push((end, part.name.as_str()));
                }
                backend.upload(shape, dtype, &|offset, out| {
                    loader.advance(out.len())?;
                    read_spans(weights, dtype, &spans, offset, out)
                })
            })
        };
        let tensors = while_preparing(&**backend, settings, &config.shape, read)?;
        backend.synchronize()?;
        let report = loader.report();
        tracing::info!(bytes = report.bytes, seconds = report.seconds, "weights loaded");
        Ok(Self::assemble(backend, config, Some(tokenizer), tensors, settings, report))
    }

    fn assemble(
        backend: &Arc<B>,
        config: Config,
        tokenizer: Option<Tokenizer>,
        tensors: Tensors<B::Tensor>,
        settings: Settings,
        report: LoadReport,
    ) -> Self {
        let inner = Inner { backend: backend.clone(), config, tokenizer, tensors, settings, report };
        Self { inner: Arc::new(inner) }
    }

    /// The context that suits most uses: the smaller of the model's maximum and 4096.
    pub fn default_context(&self) -> usize {
        default_context(&self.config().shape)
    }

    /// Allocates a KV cache and activations for `context` positions.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model was not made for so long a context, [`Error::OutOfMemory`].
    pub fn session(&self, context: usize) -> Result<Session<B>> {
        Session::new(self.clone(), context)
    }

    /// The backend that the weights are on.
    pub fn backend(&self) -> &Arc<B> {
        &self.inner.backend
    }

    /// The model's settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The tokenizer; none for random weights.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.inner.tokenizer.as_ref()
    }

    /// Type of the weights on the device.
    pub fn dtype(&self) -> DType {
        self.inner.settings.dtype
    }

    /// Type of the KV cache.
    pub fn kv_dtype(&self) -> DType {
        self.inner.settings.kv_dtype
    }

    /// Type of the activations between the residual stream's: what the backend likes best beside these weights.
    pub fn activation_dtype(&self) -> DType {
        self.backend().activation_dtype(self.dtype())
    }

    /// Type of queries and of what attention gives: that of the activations, or f32 where the cache is of another type than
    /// the weights, so that no backend needs attention for every pair of types.
    pub fn attention_dtype(&self) -> DType {
        if self.kv_dtype() == self.dtype() { self.activation_dtype() } else { DType::F32 }
    }

    /// Prompt tokens that are processed together.
    pub fn prefill_chunk(&self) -> usize {
        self.inner.settings.prefill_chunk
    }

    /// What loading took.
    pub fn load_report(&self) -> LoadReport {
        self.inner.report
    }

    pub(crate) fn settings(&self) -> Settings {
        self.inner.settings
    }

    pub(crate) fn tensors(&self) -> &Tensors<B::Tensor> {
        &self.inner.tensors
    }
}
