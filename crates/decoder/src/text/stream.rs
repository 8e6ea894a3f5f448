//! Text that appears token by token.

use backend_api::Result;
use tokenizers::DecoderWrapper;

use super::Tokenizer;

/// How the tokens of a tokenizer become text, as far as it matters for cutting the text into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoding {
    /// A token is a string of bytes, and the text is these bytes one after the other.
    Bytes,
    /// A token's text may depend on its neighbours. `byte_fallback`: tokens such as `<0xE2>` are single bytes.
    Neighbours { byte_fallback: bool },
}

impl Decoding {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        match tokenizer.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => Self::Bytes,
            Some(DecoderWrapper::Sequence(steps)) => {
                let is_fallback = |step: &_| matches!(step, DecoderWrapper::ByteFallback(_));
                match steps.get_decoders() {
                    [DecoderWrapper::ByteLevel(_)] => Self::Bytes,
                    steps => Self::Neighbours { byte_fallback: steps.iter().any(is_fallback) },
                }
            }
            Some(DecoderWrapper::ByteFallback(_)) => Self::Neighbours { byte_fallback: true },
            _ => Self::Neighbours { byte_fallback: false },
        }
    }
}

/// Tokens of the past that a stream begins with: enough to hold a whole character.
const PAST_TOKENS: usize = 4;

/// Turns token ids into text piece by piece.
///
/// The pieces together are the text of [`Tokenizer::decode`] of all ids. A piece never ends within a character: bytes wait
/// until the character that they begin is complete. Special tokens and ids without a token add nothing. The cost of a token
/// does not grow with the length of the text.
///
/// Bytes that are not UTF-8 become U+FFFD, one per invalid sequence; where they come from byte-fallback tokens,
/// [`Tokenizer::decode`] also replaces the valid bytes beside them, and this does not.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// Bytes whose character is incomplete: at most three.
    partial: Vec<u8>,
    /// Tokens whose text depends on each other: first `context` that are done with, then those whose text waits.
    window: Vec<u32>,
    context: usize,
}

impl TextStream {
    /// A stream for the tokens that begin a text.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self { tokenizer: tokenizer.clone(), partial: Vec::new(), window: Vec::new(), context: 0 }
    }

    /// A stream for the tokens that follow those of `past`, whose text is known: what a tokenizer does only at the beginning of
    /// a text, such as dropping a space, has been done.
    pub fn after(tokenizer: &Tokenizer, past: &[u32]) -> Self {
        let mut stream = Self::new(tokenizer);
        let has_text = |id: &&u32| !tokenizer.is_special(**id) && tokenizer.token_of(**id).is_some();
        stream.window = past.iter().rev().filter(has_text).take(PAST_TOKENS).copied().collect();
        stream.window.reverse();
        stream.context = stream.window.len();
        stream
    }

    /// Adds a token and returns the text that has become certain, often one token's, sometimes none.
    ///
    /// # Errors
    /// [`backend_api::Error::Format`] if the tokenizer's own rules fail on this token.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        let Some(token) = self.tokenizer.token_of(id) else { return Ok(String::new()) };
        match self.tokenizer.decoding() {
            Decoding::Bytes => {
                push_bytes_of(&token, &mut self.partial);
                Ok(take_complete(&mut self.partial))
            }
            Decoding::Neighbours { byte_fallback } => {
                let byte = if byte_fallback { fallback_byte(&token) } else { None };
                self.push_to_window(id, byte)
            }
        }
    }

    /// Ends the text: what still waited, with an incomplete character as U+FFFD. The stream can begin another text.
    pub fn finish(&mut self) -> String {
        let text = self.end_bytes();
        self.window.clear();
        self.context = 0;
        text
    }

    fn push_to_window(&mut self, id: u32, byte: Option<u8>) -> Result<String> {
        let Some(byte) = byte else {
            let mut text = self.end_bytes();
            self.window.push(id);
            text.push_str(&self.decode_waiting()?);
            return Ok(text);
        };
        self.partial.push(byte);
        self.window.push(id);
        if self.context == 0 && std::str::from_utf8(&self.partial).is_ok() {
            // A decoder may drop a space at the beginning of a text, even one that is written as a byte.
            self.partial.clear();
            return self.decode_waiting();
        }
        let text = take_complete(&mut self.partial);
        if !text.is_empty() {
            self.keep_waiting(self.partial.len());
        }
        Ok(text)
    }

    /// Gives up on the character that the waiting bytes begin.
    fn end_bytes(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        if !text.is_empty() {
            self.partial.clear();
            self.keep_waiting(0);
        }
        text
    }

    /// Text of the waiting tokens, which become the context of those that follow.
    ///
    /// The context is there for what a decoder does at the beginning of a text, such as dropping a space: it does so to the
    /// context, with and without the tokens after it, and the difference is their text.
    fn decode_waiting(&mut self) -> Result<String> {
        let context = self.window.get(..self.context).unwrap_or_default();
        let before = self.tokenizer.decode(context)?;
        let with = self.tokenizer.decode(&self.window)?;
        self.keep_waiting(0);
        Ok(after_common_prefix(&with, &before).to_owned())
    }

    /// Forgets the context; all tokens but the last `n` become the new one.
    fn keep_waiting(&mut self, n: usize) {
        self.window.drain(..self.context.min(self.window.len()));
        self.context = self.window.len().saturating_sub(n);
    }
}

/// `text` without the characters at its beginning that `prefix` has, too.
fn after_common_prefix<'t>(text: &'t str, prefix: &str) -> &'t str {
    let same = text.chars().zip(prefix.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    text.get(same..).unwrap_or_default()
}

/// The byte that a token such as `<0xE2>` is.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Appends the bytes that a token of a byte-level vocabulary stands for.
fn push_bytes_of(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        match level_byte(c) {
            Some(byte) => bytes.push(byte),
            None => {
                // The token is not written in the byte alphabet: it stands for itself.
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character stands for in byte-level vocabularies.
///
/// Printable bytes of Latin-1 are written as themselves, the other 68 in ascending order as U+0100, U+0101, ….
fn level_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Takes the complete characters from the front of `bytes`; an invalid sequence is complete as U+FFFD.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        let at_end = done + invalid.len() == bytes.len();
        let may_become_valid = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        let waits = at_end && may_become_valid;
        if !invalid.is_empty() && !waits {
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
    }
    bytes.drain(..done.min(bytes.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_the_library_s() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<_> = alphabet.iter().filter_map(|&c| level_byte(c)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        let written =
            [('Ā', 0), ('Ġ', b' '), ('ġ', 0x7f), ('ł', 0xa0), ('Ń', 0xad), ('é', 0xe9), ('!', b'!')];
        for (c, byte) in written {
            assert_eq!(level_byte(c), Some(byte), "{c}");
        }
        assert!(
            (0..0x1000)
                .filter_map(char::from_u32)
                .filter(|&c| level_byte(c).is_some())
                .all(|c| alphabet.contains(&c))
        );
    }

    #[test]
    fn only_two_digits_make_a_byte() {
        assert_eq!(fallback_byte("<0xE2>"), Some(0xe2));
        for token in ["<0x>", "<0xE>", "<0xE2A>", "<0xZZ>", "0xE2", "<0xé>", "<0x+1>x"] {
            assert_eq!(fallback_byte(token), None, "{token}");
        }
    }

    #[test]
    fn what_is_kept_does_not_grow() {
        let json = br#"{"version":"1.0","added_tokens":[],"decoder":{"type":"Sequence","decoders":[
            {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
            "model":{"type":"BPE","byte_fallback":true,"merges":[],
            "vocab":{"a":0," ":1,"<0xE4>":2,"<0xBD>":3,"<0xA0>":4,"<0xEF>":5,"<0xBF>":6,"<0xFF>":7,"":8}}}"#;
        let mut stream = TextStream::new(&Tokenizer::from_bytes(json).unwrap());
        for i in 0..20_000u64 {
            let ids = backend_api::random::philox(5, i);
            // Stretches of one token each, then of random ones.
            let id = if i < 9_000 { (i / 1_000) as u32 } else { ids[0] % 9 };
            stream.push(id).unwrap();
            assert!(stream.window.len() <= 8 && stream.partial.len() <= 3, "{i}: {stream:?}");
        }
    }
}
