//! The CPU backend of torchless: threaded, vectorised, no unsafe code
