//! Whole models against the reference, for whoever runs them: settings, shapes, types and long contexts.

use std::path::Path;
use std::{fs, io};

use backend_api::DType;

use super::{Folder, ModelType, ReferenceConfig, ReferenceModel, RopeScaling};
use crate::tolerance::{nmse, nmse_of_logits};

const TOKENIZER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../torchless-cli/models/tiny-shakespeare/tokenizer.json");

/// A model as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    model: &'a ReferenceModel,
    folder: Folder<'a>,
}

impl Stored<'_> {
    /// Writes the model's files into a folder that exists.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let tokenizer = fs::read(TOKENIZER)?;
        self.model.write_folder(path, Folder { tokenizer: Some(&tokenizer), ..self.folder })
    }
}

/// How a model is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Type of the weights.
    pub dtype: DType,
    /// Type of keys and values.
    pub cache: DType,
    /// Tokens that are fed together.
    pub chunk: usize,
    /// Positions of the cache.
    pub context: usize,
    /// The first position whose logits are asked for.
    pub first: usize,
}

/// Logits of every position from [`Settings::first`] on.
pub type Logits = Vec<Vec<f32>>;

/// Runs a model: the logits after each id from the first that is asked for on, the ids fed in chunks, and again those fed one by
/// one; and the logits of [`some`] positions, the ids fed in chunks of which nothing else is asked.
pub type Runner<'r> = &'r dyn Fn(Stored<'_>, Settings, &[u32]) -> Result<[Logits; 3], String>;

/// A few of so many positions, the last among them.
pub fn some(positions: usize) -> Vec<usize> {
    (0..positions).rev().step_by(2).take(2).collect()
}

/// What is compared: a model, the types of its weights and cache, tokens, and how many are fed together.
struct Plan<'a> {
    config: ReferenceConfig,
    types: &'a [(DType, DType)],
    positions: usize,
    /// See [`Settings::first`].
    first: usize,
    chunk: usize,
    folder: Folder<'a>,
    /// What the bound is multiplied by where a model is more sensitive than most.
    sensitivity: f64,
}

/// Weights and cache of one type.
const SAME: [(DType, DType); 3] =
    [(DType::F32, DType::F32), (DType::F16, DType::F16), (DType::BF16, DType::BF16)];

impl Plan<'_> {
    /// In every type, 130 positions in chunks of 100.
    fn of(config: ReferenceConfig) -> Self {
        let folder = Folder::default();
        Plan { config, types: &SAME, positions: 130, first: 0, chunk: 100, folder, sensitivity: 1.0 }
    }

    fn compare(&self, run: Runner<'_>) -> Result<(), String> {
        let reference = ReferenceModel::random(self.config.clone(), 11);
        let vocab = reference.config.vocab_size as u32;
        let ids: Vec<u32> = (0..self.positions as u32).map(|i| i.wrapping_mul(i + 7) % vocab).collect();
        for (dtype, cache) in self.types.iter().copied() {
            let model = reference.rounded(dtype);
            let Self { positions: context, first, chunk, .. } = *self;
            let all = model.logits_from(&ids, first);
            let at = |p: usize| all.get(p.checked_sub(first)?);
            let of_some: Vec<f64> = some(ids.len()).into_iter().filter_map(at).flatten().copied().collect();
            let all: Vec<f64> = all.into_iter().flatten().collect();
            let settings = Settings { dtype, cache, chunk, context, first };
            let stored = Stored { model: &model, folder: Folder { dtype, ..self.folder } };
            let what = format!("{dtype}, cache {cache}, {:?}", self.config);
            let got = run(stored, settings, &ids).map_err(|e| format!("{what}: {e}"))?;
            let ways = [("batch", &all), ("single tokens", &all), ("some positions", &of_some)];
            for ((way, want), got) in ways.into_iter().zip(got) {
                let got: Vec<f64> = got.into_iter().flatten().map(f64::from).collect();
                if got.len() != want.len() {
                    return Err(format!("{what}, {way}: {} logits instead of {}", got.len(), want.len()));
                }
                let bound = self.sensitivity * nmse_of_logits(dtype).max(nmse_of_logits(cache));
                let error = nmse(&got, want);
                // A NaN is no success.
                if !matches!(error.partial_cmp(&bound), Some(std::cmp::Ordering::Less)) {
                    return Err(format!("{what}, {way}: NMSE {error:e}, above {bound:e}"));
                }
            }
        }
        Ok(())
    }
}

/// A Mistral as it comes.
///
/// # Errors
/// The first comparison that fails, as of every case.
pub fn plain(run: Runner<'_>) -> Result<(), String> {
    Plan::of(ReferenceConfig::tiny()).compare(run)
}

/// Windows of one token, within a chunk, within the context, and beyond it.
///
/// # Errors
/// The first comparison that fails.
pub fn sliding_window(run: Runner<'_>) -> Result<(), String> {
    [1, 5, 64, 1000].into_iter().try_for_each(|window| {
        Plan::of(ReferenceConfig { sliding_window: Some(window), ..ReferenceConfig::tiny() }).compare(run)
    })
}

/// The embedding table as the output projection. Its elements are then so small that the layers outweigh it: rounding shows
/// seven times as much as in an untied model, in f32 too.
///
/// # Errors
/// The first comparison that fails.
pub fn tied_embeddings(run: Runner<'_>) -> Result<(), String> {
    let tied = ReferenceConfig { tie_word_embeddings: true, ..ReferenceConfig::tiny() };
    Plan { sensitivity: 7.0, ..Plan::of(tied) }.compare(run)
}

/// Heads of many lengths, in groups of 1 to 16.
///
/// # Errors
/// The first comparison that fails.
pub fn heads_of_every_kind(run: Runner<'_>) -> Result<(), String> {
    let kinds = [
        (4, 4, 8),
        (6, 1, 10),
        (7, 7, 40),
        (7, 1, 40),
        (8, 2, 64),
        (3, 1, 80),
        (9, 1, 96),
        (12, 1, 128),
        (16, 1, 16),
        (2, 1, 256),
    ];
    kinds.into_iter().try_for_each(|(n_heads, n_kv_heads, head_dim)| {
        let config = ReferenceConfig { n_heads, n_kv_heads, head_dim, ..ReferenceConfig::tiny() };
        Plan { positions: 40, chunk: 33, ..Plan::of(config) }.compare(run)
    })
}

/// Heads longer than attention in one kernel takes anywhere, in f32, which every backend composes.
///
/// # Errors
/// The first comparison that fails.
pub fn very_long_heads(run: Runner<'_>) -> Result<(), String> {
    let heads = ReferenceConfig { n_heads: 2, n_kv_heads: 1, head_dim: 264, ..ReferenceConfig::tiny() };
    Plan { types: &[(DType::F32, DType::F32)], chunk: 40, ..Plan::of(heads) }.compare(run)
}

/// Widths that are no multiple of 16, of 8, of 2.
///
/// # Errors
/// The first comparison that fails.
pub fn odd_sizes(run: Runner<'_>) -> Result<(), String> {
    let sizes = [(37, 53, 101, 10), (40, 56, 72, 40), (36, 50, 99, 6), (88, 24, 61, 80)];
    sizes.into_iter().try_for_each(|(hidden_size, intermediate_size, vocab_size, head_dim)| {
        let config = ReferenceConfig {
            hidden_size,
            intermediate_size,
            vocab_size,
            head_dim,
            n_layers: 3,
            model_type: ModelType::Llama,
            ..ReferenceConfig::tiny()
        };
        Plan::of(config).compare(run)
    })
}

/// Rotary scaling, in both forms of `config.json`.
///
/// # Errors
/// The first comparison that fails.
pub fn rotary_scaling(run: Runner<'_>) -> Result<(), String> {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    for scaling in [RopeScaling::Linear { factor: 4.0 }, llama3] {
        for new_config in [false, true] {
            let config = ReferenceConfig {
                rope_scaling: Some(scaling),
                model_type: ModelType::Llama,
                head_dim: 16,
                ..ReferenceConfig::tiny()
            };
            let folder = Folder { new_config, ..Folder::default() };
            Plan { folder, ..Plan::of(config) }.compare(run)?;
        }
    }
    Ok(())
}

/// Weights in several files.
///
/// # Errors
/// The first comparison that fails.
pub fn shards(run: Runner<'_>) -> Result<(), String> {
    [2, 5].into_iter().try_for_each(|shards| {
        let folder = Folder { shards, ..Folder::default() };
        Plan { folder, positions: 20, ..Plan::of(ReferenceConfig::tiny()) }.compare(run)
    })
}

/// A cache of another type than the weights.
///
/// # Errors
/// The first comparison that fails.
pub fn caches_of_other_types(run: Runner<'_>) -> Result<(), String> {
    use DType::{BF16, F16, F32};
    let types = [(F32, F16), (F32, BF16), (F16, BF16), (BF16, F16), (BF16, F32), (F16, F32)];
    Plan { types: &types, ..Plan::of(ReferenceConfig::tiny()) }.compare(run)
}

/// Over 4096 positions, with heads and chunks that the fastest kernels are made for, in every type.
///
/// # Errors
/// The first comparison that fails.
pub fn long_positions(run: Runner<'_>) -> Result<(), String> {
    let heads = ReferenceConfig { n_heads: 2, n_kv_heads: 1, head_dim: 128, ..ReferenceConfig::tiny() };
    let config = ReferenceConfig { n_layers: 1, hidden_size: 64, ..heads };
    Plan { positions: 4100, chunk: 1000, ..Plan::of(config) }.compare(run)?;
    let config = ReferenceConfig { sliding_window: Some(3000), ..ReferenceConfig::tiny() };
    Plan { positions: 4096, ..Plan::of(config) }.compare(run)
}

/// The last of 32 768 positions, as many as attention on tensor cores takes together, in every type.
///
/// # Errors
/// The first comparison that fails.
pub fn longest_context(run: Runner<'_>) -> Result<(), String> {
    let heads = ReferenceConfig { n_heads: 2, n_kv_heads: 1, head_dim: 128, ..ReferenceConfig::tiny() };
    let positions = 32_768;
    let config =
        ReferenceConfig { n_layers: 1, hidden_size: 64, max_position_embeddings: positions, ..heads };
    Plan { positions, first: positions - 40, chunk: 2048, ..Plan::of(config) }.compare(run)
}

/// Tests that hold whoever runs whole models to [`cases`](crate::decoder::cases): a `#[test]` for each. The expression is a
/// [`Runner`](crate::decoder::cases::Runner).
#[macro_export]
macro_rules! decoder_suite {
    ($run:expr) => { $crate::decoder_suite!(@each [] $run); };
    ($run:expr, ignore = $why:literal) => { $crate::decoder_suite!(@each [#[ignore = $why]] $run); };
    (@each $attributes:tt $run:expr) => {
        $crate::decoder_suite!(@all $attributes $run;
            plain sliding_window tied_embeddings heads_of_every_kind very_long_heads odd_sizes rotary_scaling shards
            caches_of_other_types long_positions longest_context);
    };
    (@all $attributes:tt $run:expr; $($name:ident)*) => {
        $($crate::decoder_suite!(@one $attributes $run, $name);)*
    };
    (@one [$($attribute:tt)*] $run:expr, $name:ident) => {
        #[test]
        $($attribute)*
        fn $name() {
            let compared = $crate::decoder::cases::$name($run);
            assert!(compared.is_ok(), "{compared:?}");
        }
    };
}
