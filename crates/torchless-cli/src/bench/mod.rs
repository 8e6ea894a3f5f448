//! Measurements of prompts and decoding, and how they are shown.

mod file;
mod limits;
mod measure;
mod plot;
mod report;

pub(crate) use file::OutputFile;
pub(crate) use limits::product_peak;
pub(crate) use measure::Bench;
pub(crate) use plot::svg;
pub(crate) use report::{Decode, Prompt, Report};
