//! Text to token ids and back: the tokenizer, text that appears token by token, and strings that end it.

mod stop;
mod stream;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use stop::StopStrings;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
