//! References, cases and tolerances that every torchless backend must meet
