//! Text generation: an iterator over tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use backend_api::ops::SampleParams;
use backend_api::{Error, KernelBackend, Result};

use crate::session::{Choice, Chosen};
use crate::{Session, StopStrings, TextStream};

/// How to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: SampleParams,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Texts that end the generation; they are not part of the result.
    pub stop: Vec<String>,
    /// Goes on after the model's end-of-text ids.
    pub ignore_eos: bool,
    /// Set it to end the generation after the current token, or the current chunk of the prompt.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for GenerateOptions {
    /// Up to 256 of the most likely tokens.
    fn default() -> Self {
        let sampling = SampleParams::default();
        Self { sampling, max_tokens: 256, stop: Vec::new(), ignore_eos: false, cancel: None }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Text that became certain with it: whole characters, nothing that may still turn into a stop text. The texts of all
    /// tokens together are the result.
    pub text: String,
    /// Its position in the context.
    pub position: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text.
    Eos,
    /// A stop text appeared.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
    /// The caller cancelled.
    Cancelled,
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerationStats {
    /// Tokens fed before the first one was chosen.
    pub prompt_tokens: usize,
    /// From the call to the first token, or to the end if there was none.
    pub prompt_time: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// From the first token to the last.
    pub decode_time: Duration,
}

impl GenerationStats {
    /// Prompt tokens per second.
    pub fn prompt_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prompt_time.as_secs_f64().max(1e-9)
    }

    /// Tokens after the first, per second.
    pub fn decode_rate(&self) -> f64 {
        self.generated_tokens.saturating_sub(1) as f64 / self.decode_time.as_secs_f64().max(1e-9)
    }
}

/// Iterator over the tokens of an answer.
///
/// Dropping it ends the answer there; the session remembers what was generated.
#[must_use = "tokens are generated as the iterator is advanced"]
pub struct Generation<'s, B: KernelBackend> {
    session: &'s mut Session<B>,
    options: GenerateOptions,
    choice: Choice,
    text: Option<TextStream>,
    stop: StopStrings,
    finish: Option<FinishReason>,
    failed: bool,
    stats: GenerationStats,
    started: Instant,
    first_token: Option<Instant>,
    /// What the step that is already queued will choose.
    ahead: Option<Chosen>,
}

impl<B: KernelBackend> Session<B> {
    /// Continues the conversation with `prompt` and generates the answer.
    ///
    /// At the start of a conversation the prompt is encoded with the special tokens that the tokenizer's
    /// post-processor adds, later without.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if the prompt leaves no room for a token, [`Error::Argument`] for an empty prompt or options
    /// outside their range, [`Error::Unsupported`] for a model without a tokenizer.
    pub fn generate(&mut self, prompt: &str, options: &GenerateOptions) -> Result<Generation<'_, B>> {
        let tokenizer = self.model().tokenizer().ok_or_else(|| Error::Unsupported {
            what: "text for a model without a tokenizer".into(),
            supported: "token ids through `generate_ids`".into(),
        })?;
        let begins = self.tokens().is_empty();
        let ids = if begins { tokenizer.encode(prompt)? } else { tokenizer.encode_continuation(prompt)? };
        self.generate_ids(&ids, options)
    }

    /// As [`Session::generate`], for a prompt of token ids.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_ids(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Generation<'_, B>> {
        self.forget_step();
        options.sampling.validate()?;
        let stop = StopStrings::new(options.stop.clone())?;
        let needed = self.tokens().len().saturating_add(prompt.len());
        if needed == 0 {
            return Err(Error::Argument { name: "prompt", reason: "has no tokens; give some text".into() });
        }
        if needed >= self.context() && options.max_tokens > 0 {
            return Err(Error::ContextFull { context: self.context(), needed: needed.saturating_add(1) });
        }
        self.extend(prompt)?;
        self.refeed_last();
        Ok(Generation {
            choice: Choice::of(&options.sampling),
            text: self.model().tokenizer().map(|t| TextStream::after(t, self.tokens())),
            session: self,
            options: options.clone(),
            stop,
            finish: None,
            failed: false,
            stats: GenerationStats::default(),
            started: Instant::now(),
            first_token: None,
            ahead: None,
        })
    }
}

impl<B: KernelBackend> Generation<'_, B> {
    /// Why it ended; none while it runs.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// What it took so far.
    pub fn stats(&self) -> GenerationStats {
        self.stats
    }

    /// Text that was held back when the generation was cancelled.
    pub fn remainder(&mut self) -> String {
        self.text.as_mut().map(TextStream::finish).map_or_else(String::new, |rest| self.show(&rest, true))
    }

    /// What of `piece`, and at the `end` of what was held back, may be shown.
    fn show(&mut self, piece: &str, end: bool) -> String {
        let (mut text, stopped) = self.stop.push(piece);
        if stopped {
            self.finish = Some(FinishReason::Stop);
        } else if end {
            text += &self.stop.finish();
        }
        text
    }

    fn cancelled(&self) -> bool {
        self.options.cancel.as_ref().is_some_and(|c| c.load(Relaxed))
    }

    /// The next id; none if cancelled meanwhile. Where the device works while the host waits, the step after it is queued
    /// before, so that the device never waits for the host.
    fn next_id(&mut self) -> Result<Option<u32>> {
        let chosen = match self.ahead.take() {
            Some(chosen) => chosen,
            None if self.first_token.is_some() => {
                self.session.step(self.choice)?;
                self.session.read_choice()?
            }
            None => match self.first_choice()? {
                Some(chosen) => chosen,
                None => return Ok(None),
            },
        };
        if chosen.is_later() && self.goes_on() {
            self.session.step(self.choice)?;
            self.ahead = Some(self.session.read_choice()?);
        }
        self.session.chosen(chosen).map(Some)
    }

    /// Feeds the prompt and chooses the first token.
    fn first_choice(&mut self) -> Result<Option<Chosen>> {
        let (mut rows, len) = (0, self.session.tokens().len());
        while self.session.cached() < len {
            if self.cancelled() {
                return Ok(None);
            }
            rows = self.session.feed_chunk(len.saturating_sub(1)..len)?;
            self.stats.prompt_tokens += rows;
        }
        if self.options.max_tokens == 0 {
            return Ok(None);
        }
        self.session.choose_after_chunk(rows, self.choice)?;
        self.session.read_choice().map(Some)
    }

    /// Whether a token will be asked for after the next, unless that ends the answer.
    fn goes_on(&self) -> bool {
        let (done, room) = (self.stats.generated_tokens, self.session.context());
        done + 1 < self.options.max_tokens && self.session.tokens().len() + 1 < room && !self.cancelled()
    }

    fn advance(&mut self) -> Result<Option<Token>> {
        if self.cancelled() {
            self.finish = Some(FinishReason::Cancelled);
            return Ok(None);
        }
        let Some(id) = self.next_id()? else {
            self.stats.prompt_time = self.started.elapsed();
            let cancelled = self.cancelled();
            self.finish = Some(if cancelled { FinishReason::Cancelled } else { FinishReason::Length });
            return Ok(None);
        };
        self.session.extend(&[id])?;
        self.count();
        let eos = !self.options.ignore_eos && self.session.model().config().eos_token_ids.contains(&id);
        self.finish = if eos {
            Some(FinishReason::Eos)
        } else if self.stats.generated_tokens >= self.options.max_tokens {
            Some(FinishReason::Length)
        } else {
            (self.session.tokens().len() >= self.session.context()).then_some(FinishReason::Context)
        };
        let text = self.text_of(id, eos)?;
        Ok(Some(Token { id, text, position: self.session.tokens().len() - 1 }))
    }

    fn count(&mut self) {
        let now = Instant::now();
        let first = *self.first_token.get_or_insert(now);
        self.stats.prompt_time = first - self.started;
        self.stats.decode_time = now - first;
        self.stats.generated_tokens += 1;
    }

    fn text_of(&mut self, id: u32, eos: bool) -> Result<String> {
        let Some(stream) = &mut self.text else { return Ok(String::new()) };
        let mut piece = if eos { String::new() } else { stream.push(id)? };
        let end = self.finish.is_some();
        if end {
            piece += &stream.finish();
        }
        Ok(self.show(&piece, end))
    }
}

impl<B: KernelBackend> Iterator for Generation<'_, B> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
