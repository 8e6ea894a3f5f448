//! Run a language model on an NVIDIA GPU or the CPU from a plain cargo build
