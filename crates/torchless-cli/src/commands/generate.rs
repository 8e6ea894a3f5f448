//! `torchless generate`.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use torchless::{Backend, FinishReason, GenerateOptions, GenerationStats, KernelBackend, Session};

use crate::args::GenerateArgs;
use crate::failure::Failure;
use crate::source::{Source, feed};
use crate::{interrupt, output, source};

/// Longest prompt that is read.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let seed = args.sampling.seed.unwrap_or_else(random_seed);
    let sampling = args.sampling.params(seed)?;
    torchless::StopStrings::new(args.stop.clone())?;
    let source = Source::of_model(args.model.as_deref())?;
    let context = source::context(args.context, &source.config.shape)?;
    let prompt = read_prompt(args)?;
    let cancel = interrupt::listen();
    let start = Instant::now();
    let backend = source::backend(args.device.device, args.device.threads)?;
    let name = source.name.clone();
    let model = source.load(&backend, args.load.options(), &cancel)?;
    let mut session = model.session(context)?;
    let seconds = start.elapsed().as_secs_f64();
    output::note(&format!(
        "{name}: {} on {} ({}), context {context}",
        source::types(&model),
        backend.name(),
        backend.info().name
    ));
    if sampling.temperature > 0.0 {
        output::note(&format!("seed {seed}"));
    }
    let options = GenerateOptions {
        sampling,
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ignore_eos: false,
        cancel: Some(cancel.clone()),
    };
    let echo = if args.echo { prompt.as_str() } else { "" };
    let done = stream(&mut session, &prompt, echo, &options, &cancel)?;
    output::note(&format!("loaded in {seconds:.2} s; {}", done.summary()));
    let memory = backend.memory();
    let (in_use, most) = (output::mib(memory.in_use), output::mib(memory.high_water));
    output::note(&format!("memory: {in_use} in use, {most} at most"));
    done.result
}

/// What a generation came to.
struct Done {
    stats: GenerationStats,
    finish: Option<FinishReason>,
    result: Result<(), Failure>,
}

impl Done {
    fn summary(&self) -> String {
        let s = &self.stats;
        let why = match self.finish {
            Some(FinishReason::Eos) => "end of text",
            Some(FinishReason::Stop) => "stop text",
            Some(FinishReason::Length) => "--max-tokens reached",
            Some(FinishReason::Context) => "context full",
            Some(FinishReason::Cancelled) => "stopped",
            None => "failed",
        };
        let prompt = format!("prompt: {} tokens, {:.1} tok/s", s.prompt_tokens, s.prompt_rate());
        let decode = match s.generated_tokens {
            0 | 1 => String::new(),
            _ => format!(", {:.1} tok/s", s.decode_rate()),
        };
        format!("{prompt}; decode: {} tokens{decode}; {why}", s.generated_tokens)
    }
}

/// Feeds the prompt and writes the text as it comes.
///
/// # Errors
/// What keeps the generation from starting, and [`Failure::Closed`]. What ends it later is in the result.
fn stream(
    session: &mut Session<Backend>,
    prompt: &str,
    echo: &str,
    options: &GenerateOptions,
    cancel: &Arc<AtomicBool>,
) -> Result<Done, Failure> {
    let start = Instant::now();
    let ids = session.model().tokenizer().map(|t| t.encode(prompt)).transpose()?.unwrap_or_default();
    if ids.len() >= session.context() && options.max_tokens > 0 {
        let (context, needed) = (session.context(), ids.len().saturating_add(1));
        return Err(torchless::Error::ContextFull { context, needed }.into());
    }
    output::print(echo)?;
    let chunk = session.model().prefill_chunk().max(1);
    let early = ids.len().saturating_sub(1) / chunk * chunk;
    let (before, last) = ids.split_at(early);
    let fed = feed(session, before, &[], cancel);
    let before = Before { tokens: session.cached(), time: start.elapsed() };
    match fed {
        Ok(_) => {}
        Err(Failure::Interrupted) => {
            let stats = before.added_to(GenerationStats::default());
            let finish = Some(FinishReason::Cancelled);
            return Ok(Done { stats, finish, result: Err(Failure::Interrupted) });
        }
        Err(other) => return Err(other),
    }
    let mut generation = session.generate_ids(last, options)?;
    let mut ends_in_newline = true;
    let mut result = Ok(());
    for token in generation.by_ref() {
        match token {
            Ok(token) => {
                ends_in_newline =
                    if token.text.is_empty() { ends_in_newline } else { token.text.ends_with('\n') };
                output::print(&token.text)?;
            }
            Err(e) => result = Err(e.into()),
        }
    }
    let (stats, finish) = (before.added_to(generation.stats()), generation.finish_reason());
    if finish == Some(FinishReason::Cancelled) || result.is_err() {
        output::print(&generation.remainder())?;
    }
    if !ends_in_newline && output::is_terminal() {
        output::print("\n")?;
    }
    if cancel.load(Relaxed) && result.is_ok() {
        result = Err(Failure::Interrupted);
    }
    Ok(Done { stats, finish, result })
}

/// What was fed before the generation began.
struct Before {
    tokens: usize,
    time: Duration,
}

impl Before {
    fn added_to(&self, stats: GenerationStats) -> GenerationStats {
        GenerationStats {
            prompt_tokens: stats.prompt_tokens + self.tokens,
            prompt_time: stats.prompt_time + self.time,
            ..stats
        }
    }
}

fn random_seed() -> u64 {
    RandomState::new().hash_one(0) >> 32
}

fn read_prompt(args: &GenerateArgs) -> Result<String, Failure> {
    if let Some(text) = &args.prompt {
        return Ok(text.clone());
    }
    match args.prompt_file.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let name = path.display().to_string();
            let file =
                File::open(path).map_err(|e| Failure::Failed(format!("{name}: {e}; give a text file")))?;
            read_text(file, &name)
        }
        None => read_text(io::stdin().lock(), "standard input"),
    }
}

fn read_text(input: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = input.take(MAX_PROMPT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::Failed(format!("{name}: {e}; give a text file")))?;
    if bytes.len() as u64 > MAX_PROMPT_BYTES {
        return Err(Failure::Failed(format!("{name}: longer than 64 MiB; give a shorter prompt")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::Failed(format!("{name}, byte {at}: not UTF-8; convert the text"))
    })
}
