//! The command line's grammar.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use torchless::{BackendPreference, DType, LoadOptions, NAMED_SHAPES, SampleParams};

use crate::failure::Failure;

/// Run a language model on the GPU that is there, or on the CPU.
#[derive(Debug, Parser)]
#[command(name = "torchless", version, about, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.\n\
    RUST_LOG=debug logs what is done to standard error.";

const BENCH_HELP: &str = "A named shape gets random weights, made on the device. The peak is that of our own kernels where no \
    library makes products, and says so. Lengths and depths of the default that do \
    not fit into the context are left out; one that was asked for and does not fit makes the exit status 1, after the others are \
    measured.";

const VERIFY_HELP: &str = "Tolerances of the normalised mean squared error (NMSE): 1e-10 in f32, 1e-6 in f16, 2e-5 in bf16; of \
    weights and KV cache, the coarser type counts.\n\
    In f32 the greedy tokens must be identical, too. docs/verify.md has the format of the file, and a script that writes one with \
    transformers: https://github.com/torchless/torchless/blob/main/docs/verify.md";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text; only the text goes to standard output.
    Generate(GenerateArgs),
    /// Measure the speed of prompts and of decoding against the peak of products and the memory's read bandwidth.
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Compare a model's logits and greedy tokens with reference values.
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// List the CPU and every GPU, whether it is usable, and why.
    Devices(DevicesArgs),
    /// Say what a model needs in memory; loads no weights.
    Estimate(EstimateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Device to run on: auto, cpu, cuda or cuda:N; auto is the first usable GPU, or the CPU where there is none.
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = device)]
    pub(crate) device: BackendPreference,
    /// CPU threads [default: one per core].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
}

fn device(text: &str) -> Result<BackendPreference, String> {
    text.parse().map_err(|error| match error {
        torchless::Error::Argument { reason, .. } => reason,
        other => other.to_string(),
    })
}

/// A storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeChoice {
    Auto,
    F32,
    F16,
    Bf16,
}

impl DtypeChoice {
    /// The type that was asked for; none for `auto`.
    pub(crate) fn dtype(self) -> Option<DType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
        }
    }
}

/// How a model is kept in memory and fed.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Storage of weights; auto keeps what the model is stored in.
    #[arg(long, value_enum, default_value = "auto", value_name = "TYPE")]
    pub(crate) dtype: DtypeChoice,
    /// Storage of the KV cache; auto is that of the weights.
    #[arg(long, value_enum, default_value = "auto", value_name = "TYPE")]
    pub(crate) kv_dtype: DtypeChoice,
    /// Prompt tokens that are processed together; fewer take less memory [default: as the backend likes best].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) prefill_chunk: Option<usize>,
}

impl LoadArgs {
    /// What was asked for.
    pub(crate) fn options(&self) -> LoadOptions {
        let (dtype, kv_dtype) = (self.dtype.dtype(), self.kv_dtype.dtype());
        LoadOptions { dtype, kv_dtype, prefill_chunk: self.prefill_chunk, ..LoadOptions::default() }
    }
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("text").args(["prompt", "prompt_file", "stdin"]).required(true).multiple(false)))]
pub(crate) struct GenerateArgs {
    /// Hugging Face model folder [default: the built-in model].
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Text to continue.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// File with the text to continue: UTF-8, at most 64 MiB.
    #[arg(long, value_name = "PATH")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Read the text to continue from standard input.
    #[arg(value_name = "-", value_parser = dash)]
    pub(crate) stdin: Option<String>,
    /// Print the prompt before the generated text.
    #[arg(long)]
    pub(crate) echo: bool,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// End the text where this appears, without it; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Tokens that prompt and answer may take together [default: the smaller of the model's maximum and 4096].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) context: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

fn dash(text: &str) -> Result<String, &'static str> {
    match text {
        "-" => Ok(text.into()),
        _ => Err("give the text with --prompt TEXT, or - to read it from standard input"),
    }
}

/// Steps of sampling, in the order in which they run.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Penalty on tokens that stand in the context, above 0; 1 is none.
    #[arg(long, default_value_t = 1.0, value_name = "F", allow_negative_numbers = true)]
    pub(crate) repeat_penalty: f32,
    /// Randomness, at least 0; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.8, value_name = "F", allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Choose among this many of the most likely tokens; 0 is all.
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_k: usize,
    /// Choose among the most likely tokens that together reach this share, above 0 and at most 1; 1 is all.
    #[arg(long, default_value_t = 0.95, value_name = "F", allow_negative_numbers = true)]
    pub(crate) top_p: f32,
    /// Choose among tokens at least this share as likely as the most likely one, from 0 to 1; 0 is all.
    #[arg(long, default_value_t = 0.0, value_name = "F", allow_negative_numbers = true)]
    pub(crate) min_p: f32,
    /// Seed of the random choice; the same seed gives the same text [default: random, and printed].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
}

impl SamplingArgs {
    /// The parameters, with the given seed.
    ///
    /// # Errors
    /// A value outside its range, named as its option.
    pub(crate) fn params(&self, seed: u64) -> Result<SampleParams, Failure> {
        let params = SampleParams {
            repetition_penalty: self.repeat_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed,
        };
        match params.validate() {
            Ok(()) => Ok(params),
            Err(torchless::Error::Argument { name, reason }) => {
                let option = if name == "repetition_penalty" {
                    "repeat-penalty".into()
                } else {
                    name.replace('_', "-")
                };
                Err(Failure::Usage(format!("--{option}: {reason}")))
            }
            Err(other) => Err(other.into()),
        }
    }
}

/// A model folder or a shape by name.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").args(["model", "shape"]).multiple(false)))]
pub(crate) struct SourceArgs {
    /// Hugging Face model folder.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Shape by name, in bf16 where --dtype is auto [default: tiny-shakespeare].
    #[arg(long, value_name = "NAME", value_parser = shape_names())]
    pub(crate) shape: Option<String>,
}

fn shape_names() -> Vec<&'static str> {
    NAMED_SHAPES.iter().map(|(name, _)| *name).collect()
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Lengths of the prompts to time [default: 512,2048, where they fit].
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = positive)]
    pub(crate) prompt_tokens: Option<Vec<usize>>,
    /// Tokens in the KV cache where decoding is timed [default: 0,512,3584, where they fit].
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    pub(crate) depth: Option<Vec<usize>>,
    /// Tokens to decode at each depth.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = positive)]
    pub(crate) generate: usize,
    /// How often each measurement is repeated [default: 3, fewer where that would take longer than 10 s].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) repeat: Option<usize>,
    /// Tokens of the context [default: what the entries need, at most the model's maximum].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) context: Option<usize>,
    /// Write all results as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the results as SVG.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Hugging Face model folder [default: the built-in model].
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Safetensors file with `input_ids`, `positions`, `logits`, and perhaps `greedy` and `greedy_prompt_len`.
    #[arg(long, value_name = "FILE")]
    pub(crate) golden: PathBuf,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EstimateArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// Device whose free memory it should fit into: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = device)]
    pub(crate) device: BackendPreference,
    /// Tokens of the context [default: the smaller of the model's maximum and 4096].
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) context: Option<usize>,
    /// Sessions that share the weights.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = positive)]
    pub(crate) batch: usize,
    /// Print JSON, in bytes.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads the command line.
///
/// # Errors
/// [`Failure::Help`] where help or the version was asked for, [`Failure::Usage`].
pub(crate) fn parse() -> Result<Cli, Failure> {
    Cli::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Failure::Help(error.to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Failure::Usage("no command was given; try `torchless --help`".into())
        }
        _ => Failure::Usage(one_line(&error.to_string())),
    })
}

/// What clap says before it repeats the usage.
fn one_line(text: &str) -> String {
    let said = text.split("\nUsage:").next().unwrap_or(text).split("\nFor more").next().unwrap_or(text);
    format!("{}; try --help", said.trim().trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }
}
