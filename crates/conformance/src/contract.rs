//! What a backend promises beyond the operations. Every part takes a function that makes a backend.

mod memory;
mod runs;
mod tiny;

use backend_api::{Error, Result as BackendResult};

pub use memory::{
    bandwidth_is_measured, copies_round_trip, counters_move, foreign_tensors_are_refused, memory_comes_back,
    random_fills, ranges_are_checked, zero_sizes,
};
pub use runs::{errors_in_steps, runs_are_repeatable, steps_equal_eager, threads_give_the_serial_bits};

use crate::Failure;
use crate::report::{Step, ensure};

/// Runs a part of the contract under its name.
fn part(op: &'static str, body: impl FnOnce() -> Step) -> Result<(), Failure> {
    body().map_err(|p| Failure { op, case: "contract".into(), seed: 0, what: p.to_string() })
}

/// Whether a call failed as it should.
fn refused<T>(what: &str, result: BackendResult<T>, right: impl Fn(&Error) -> bool) -> Step {
    let got = match &result {
        Ok(_) => "no error".to_owned(),
        Err(error) => format!("{error:?}"),
    };
    ensure(result.is_err_and(|e| right(&e)), || format!("{what}: the wrong answer: {got}"))
}
