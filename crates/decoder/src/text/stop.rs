//! Strings that end a text.

use backend_api::{Error, Result};

/// Looks for strings that end a text which arrives in pieces.
///
/// The text ends as soon as one of the strings is complete, whatever the pieces are, and is shown up to where that string
/// begins; if several are complete at once, up to where the longest begins. Only the end of the text that may still
/// become a stop string is held back. The cost of a piece is its length times the number of strings.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    held: String,
    stopped: bool,
}

/// A string and how much of it the text ends with (Knuth, Morris, Pratt: Fast pattern matching in strings, 1977).
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// Element `i`: length of the longest proper prefix of the string that its first `i + 1` bytes end with.
    borders: Vec<usize>,
    matched: usize,
}

impl StopStrings {
    /// Looks for any of `strings`; with none, all text passes at once.
    ///
    /// # Errors
    /// [`Error::Argument`] if one of them is empty.
    pub fn new(strings: Vec<String>) -> Result<Self> {
        if strings.iter().any(String::is_empty) {
            let reason = "a stop string is empty; leave it out, or give the text to stop at".into();
            return Err(Error::Argument { name: "stop", reason });
        }
        Ok(Self { patterns: strings.into_iter().map(Pattern::new).collect(), ..Self::default() })
    }

    /// Adds a piece of text; returns the text that belongs to no stop string, and whether a stop string is complete, after
    /// which no text follows.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (i, &byte) in piece.as_bytes().iter().enumerate() {
            let mut longest = 0;
            for pattern in &mut self.patterns {
                if pattern.advance(byte) {
                    longest = longest.max(pattern.bytes.len());
                }
            }
            if longest > 0 {
                self.stopped = true;
                return self.show((before + i + 1).saturating_sub(longest));
            }
        }
        let waiting = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        self.show(self.held.len().saturating_sub(waiting))
    }

    /// Ends the text: what was held back, since it became no stop string. Another text can begin.
    pub fn finish(&mut self) -> String {
        self.patterns.iter_mut().for_each(|pattern| pattern.matched = 0);
        let held = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.stopped) { String::new() } else { held }
    }

    /// Gives out the first `len` bytes of what is held; a stop string begins behind them, and so does a character.
    fn show(&mut self, len: usize) -> (String, bool) {
        let rest = if self.held.is_char_boundary(len) { self.held.split_off(len) } else { String::new() };
        let text = std::mem::replace(&mut self.held, rest);
        (text, self.stopped)
    }
}

impl Pattern {
    fn new(string: String) -> Self {
        let bytes = string.into_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for i in 1..bytes.len() {
            border = extend(&bytes, &borders, border, bytes[i]);
            borders[i] = border;
        }
        Self { bytes, borders, matched: 0 }
    }

    /// Adds a byte of text; true if the text now ends with the string.
    fn advance(&mut self, byte: u8) -> bool {
        self.matched = extend(&self.bytes, &self.borders, self.matched, byte);
        self.matched == self.bytes.len()
    }
}

/// How much of the string a text ends with after `byte`, if it ended with the first `matched` bytes before.
fn extend(bytes: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    loop {
        if bytes.get(matched) == Some(&byte) {
            return matched + 1;
        }
        match matched.checked_sub(1).and_then(|last| borders.get(last)) {
            Some(&border) => matched = border,
            None => return 0,
        }
    }
}
