//! The suite can fail: a backend that is wrong in one operation fails that operation's cases and no others.
#![expect(clippy::unwrap_used, reason = "helpers of the tests may panic as the tests do")]

mod backend;
mod faults;

use conformance::toy::ToyBackend;
use conformance::{Group, ops};

use backend::Wrong;
use faults::{FAULTS, Fault, is_first};

/// Names of the operations whose cases fail.
fn failing(fault: Fault) -> Vec<&'static str> {
    let backend = Wrong { toy: ToyBackend::new(), fault };
    let failed = |(name, run): (&'static str, ops::RunOp<Wrong>)| {
        let failure = run(&backend, Group::Quick).err()?;
        assert_eq!(failure.op, name);
        Some(name)
    };
    ops::all::<Wrong>().into_iter().filter_map(failed).collect()
}

#[test]
fn without_a_fault_nothing_fails() {
    assert_eq!(failing(Fault::None), [""; 0]);
}

#[test]
fn a_wrong_operation_fails_alone() {
    for (fault, op) in FAULTS.into_iter().filter(|(fault, _)| is_first(*fault)) {
        assert_eq!(failing(fault), [op], "{fault:?}");
    }
}

#[test]
fn every_fault_is_found() {
    for (fault, op) in FAULTS.into_iter().filter(|(fault, _)| !is_first(*fault)) {
        let backend = Wrong { toy: ToyBackend::new(), fault };
        let (_, run) = ops::all::<Wrong>().into_iter().find(|(name, _)| *name == op).unwrap();
        assert!(run(&backend, Group::Quick).is_err(), "{fault:?}");
    }
}

#[test]
fn every_operation_has_a_fault() {
    for (name, _) in ops::all::<Wrong>() {
        assert!(FAULTS.iter().any(|(_, op)| *op == name), "{name}");
    }
}

#[test]
fn failures_say_where_and_how_far() {
    let backend = Wrong { toy: ToyBackend::new(), fault: Fault::AddLastElement };
    let message = ops::add::run(&backend, Group::Quick).unwrap_err().to_string();
    for part in ["add [", "1 x 1", "seed 0x", "out[0, 0]", "got ", "want ", "accepted "] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}
