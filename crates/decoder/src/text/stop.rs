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

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(strings: &[&str]) -> StopStrings {
        StopStrings::new(strings.iter().map(|s| s.to_string()).collect()).unwrap()
    }

    /// All that is shown of a text in these pieces, and whether it was stopped.
    fn run(strings: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stop = stops(strings);
        let mut shown = String::new();
        let mut stopped = false;
        for piece in pieces {
            let (text, hit) = stop.push(piece);
            assert!(text.is_empty() || !stopped, "text after the end");
            shown += &text;
            stopped = hit;
        }
        (shown + &stop.finish(), stopped)
    }

    /// The same for a whole text, from the definition: the first end of any string, the longest that ends there.
    fn naive(strings: &[&str], text: &str) -> (String, bool) {
        for end in 0..=text.len() {
            let Some(before) = text.get(..end) else { continue };
            if let Some(len) = strings.iter().filter(|s| before.ends_with(**s)).map(|s| s.len()).max() {
                return (before[..end - len].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let mut stop = stops(&["\nUser:", "###"]);
        assert_eq!(stop.push("Hi\n"), ("Hi".into(), false));
        assert_eq!(stop.push("Us"), (String::new(), false));
        assert_eq!(stop.push("ual #"), ("\nUsual ".into(), false));
        assert_eq!(stop.push("#é"), ("##é".into(), false));
        assert_eq!(stop.push("x\nUser: y"), ("x".into(), true));
        assert_eq!(stop.push("more"), (String::new(), true));
        assert_eq!(stop.finish(), "");
        assert_eq!(stop.push("again ##"), ("again ".into(), false));
        assert_eq!(stop.finish(), "##");
    }

    #[test]
    fn the_first_string_to_be_complete_ends_the_text() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), ("xa".into(), true));
        assert_eq!(run(&["bc", "abc"], &["xa", "bcd"]), ("x".into(), true));
        assert_eq!(run(&["abc", "bc"], &["xabc"]), ("x".into(), true));
        assert_eq!(run(&["aab"], &["aa", "aab"]), ("aa".into(), true));
        assert_eq!(run(&["🦀"], &["a🦀b"]), ("a".into(), true));
        assert_eq!(run(&["好"], &["你", "你"]), ("你你".into(), false));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
    }

    #[test]
    fn empty_strings_are_refused() {
        let error = StopStrings::new(vec!["a".into(), String::new()]).err();
        assert!(matches!(error, Some(Error::Argument { name: "stop", .. })), "{error:?}");
    }

    #[test]
    fn any_pieces_give_what_a_search_of_the_whole_text_gives() {
        let letters = ["a", "b", "é", "你"];
        let mut hits = 0;
        for case in 0..20_000u64 {
            let number = |i: u64, n: u32| backend_api::random::philox(case, i)[0] % n;
            let word = |start: u64, len: u32| -> String {
                (0..len).map(|i| letters[number(start + u64::from(i), 4) as usize]).collect()
            };
            let strings: Vec<String> = (0..number(0, 4))
                .map(|s| word(100 * u64::from(s + 1), 1 + number(10 + u64::from(s), 4)))
                .collect();
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let text = word(1_000, number(2, 30));
            let mut pieces = vec![""];
            let mut start = 0;
            for (end, _) in text.char_indices().filter(|&(i, _)| number(2_000 + i as u64, 3) == 0) {
                pieces.push(&text[start..end]);
                start = end;
            }
            pieces.push(&text[start..]);
            let expected = naive(&strings, &text);
            hits += usize::from(expected.1);
            assert_eq!(run(&strings, &pieces), expected, "{strings:?} in {pieces:?}");
        }
        assert!((2_000..18_000).contains(&hits), "{hits}");
    }

    #[test]
    fn long_strings_cost_as_little_as_short_ones() {
        let long = "a".repeat(100_000) + "b";
        let text = "a".repeat(1_000);
        let mut stop = stops(&[&long]);
        let start = std::time::Instant::now();
        for _ in 0..1_000 {
            stop.push(&text);
        }
        assert!(stop.push("b").1);
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }
}
