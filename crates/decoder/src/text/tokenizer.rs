//! `tokenizer.json`.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backend_api::{Error, Result};

use super::stream::Decoding;

/// Longest `tokenizer.json` that is read; the largest published ones take about 35 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What turns text into token ids and back. A clone shares its tables.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    inner: tokenizers::Tokenizer,
    /// Stands for the file in errors.
    path: PathBuf,
    special: HashSet<u32>,
    vocab_size: usize,
    decoding: Decoding,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is no tokenizer or longer than 256 MiB.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Asked before opening: opening a FIFO waits for a writer.
        if !path.metadata().map_err(Error::io(path))?.is_file() {
            return Err(Error::format(path, "is not a regular file"));
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        Self::parse(path.to_path_buf(), &bytes)
    }

    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Format`] if they are no tokenizer or more than 256 MiB.
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Result<Self> {
        Self::parse("tokenizer.json".into(), bytes.as_ref())
    }

    fn parse(path: PathBuf, bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::format(
                path,
                format!("longer than {MAX_FILE_BYTES} bytes; this is no tokenizer"),
            ));
        }
        let mut inner = guarded(&path, "reading the tokenizer", || tokenizers::Tokenizer::from_bytes(bytes))?;
        // A file may carry the limits of its training run; a prompt must neither be cut nor filled up.
        inner.with_padding(None);
        guarded(&path, "lifting the length limit", || inner.with_truncation(None).map(|_| ()))?;
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let highest = inner.get_vocab(true).into_values().chain(added.keys().copied()).max();
        let Some(vocab_size) = highest.and_then(|id| usize::try_from(id).ok()?.checked_add(1)) else {
            return Err(Error::format(path, "the vocabulary is empty"));
        };
        let decoding = Decoding::of(&inner);
        Ok(Self { shared: Arc::new(Shared { inner, path, special, vocab_size, decoding }) })
    }

    /// Token ids of the text that begins a conversation, with the special tokens that the file's post-processor adds.
    ///
    /// # Errors
    /// [`Error::Format`] if the tokenizer's own rules fail on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, true)
    }

    /// Token ids of text that continues a conversation: no special tokens are added.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encode = || self.shared.inner.encode_fast(text, add_special_tokens);
        guarded(&self.shared.path, "encoding text", encode).map(|encoding| encoding.get_ids().to_vec())
    }

    /// Text of `ids` as a whole, without special tokens; ids without a token add nothing.
    ///
    /// # Errors
    /// [`Error::Format`] if the tokenizer's own rules fail on these ids.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(&self.shared.path, "decoding tokens", || self.shared.inner.decode(ids, true))
    }

    /// The highest token id + 1.
    pub fn vocab_size(&self) -> usize {
        self.shared.vocab_size
    }

    /// Id of the token written `token`, special or not.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.shared.inner.token_to_id(token)
    }

    /// Whether `id` is a token that stands for no text, such as the end of a sequence.
    pub fn is_special(&self, id: u32) -> bool {
        self.shared.special.contains(&id)
    }

    /// How the token `id` is written in the vocabulary.
    pub(super) fn token_of(&self, id: u32) -> Option<String> {
        self.shared.inner.id_to_token(id)
    }

    pub(super) fn decoding(&self) -> Decoding {
        self.shared.decoding
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { path, vocab_size, .. } = &*self.shared;
        f.debug_struct("Tokenizer")
            .field("path", path)
            .field("vocab_size", vocab_size)
            .finish_non_exhaustive()
    }
}

/// Runs code of the tokenizer library, which may panic on rules that contradict themselves.
fn guarded<T>(path: &Path, what: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("its rules contradict themselves")
                .into()
        }
    };
    Err(Error::format(path, format!("{what} failed: {reason}")))
}
