//! The tests of a backend.

/// Tests that hold a backend to [`ops`](crate::ops) and [`contract`](crate::contract): one `#[test]` per
/// operation, named after it, one per part of the contract. The expression makes a backend and is evaluated in
/// each test; where two backends are needed, twice.
///
/// `suite!(backend)` runs [`Group::Full`](crate::Group::Full); `suite!(backend, ignore = "needs an NVIDIA
/// GPU")` marks every test so; `suite!(backend, group = Quick)` runs another group.
#[macro_export]
macro_rules! suite {
    ($backend:expr) => { $crate::suite!(@all [] $backend, Full); };
    ($backend:expr, group = $group:ident) => { $crate::suite!(@all [] $backend, $group); };
    ($backend:expr, ignore = $why:literal) => { $crate::suite!(@all [#[ignore = $why]] $backend, Full); };
    ($backend:expr, ignore = $why:literal, group = $group:ident) => {
        $crate::suite!(@all [#[ignore = $why]] $backend, $group);
    };
    (@all $attributes:tt $backend:expr, $group:ident) => {
        $crate::suite!(@each op $attributes $backend, $group;
            add append_rows apply_rope argmax attention compute_attention_scores embed matmul mul
            norm_qkv_rope_append norm_swiglu rmsnorm sample silu softmax weighted_sum_rows);
        $crate::suite!(@each contract $attributes $backend, $group;
            copies_round_trip zero_sizes ranges_are_checked random_fills counters_move memory_comes_back
            foreign_tensors_are_refused);
        $crate::suite!(@each steps $attributes $backend, $group;
            steps_equal_eager errors_in_steps threads_give_the_serial_bits runs_are_repeatable);
        $crate::suite!(@timed $attributes $backend, $group);
    };
    // What reads gigabytes is no part of the quick group, which runs under sanitizers.
    (@timed $attributes:tt $backend:expr, Quick) => {};
    (@timed $attributes:tt $backend:expr, $group:ident) => {
        $crate::suite!(@each contract $attributes $backend, $group; bandwidth_is_measured);
    };
    (@each $kind:ident $attributes:tt $backend:expr, $group:ident; $($name:ident)*) => {
        $($crate::suite!(@$kind $attributes $backend, $group, $name);)*
    };
    (@op [$($attribute:tt)*] $backend:expr, $group:ident, $name:ident) => {
        #[test]
        $($attribute)*
        fn $name() {
            let run = $crate::ops::$name::run(&$backend, $crate::Group::$group);
            assert!(run.as_ref().is_ok_and(|report| report.cases > 0), "{run:?}");
        }
    };
    (@contract [$($attribute:tt)*] $backend:expr, $group:ident, $name:ident) => {
        #[test]
        $($attribute)*
        fn $name() {
            let made = $crate::contract::$name(|| $backend);
            assert!(made.is_ok(), "{made:?}");
        }
    };
    (@steps [$($attribute:tt)*] $backend:expr, $group:ident, $name:ident) => {
        #[test]
        $($attribute)*
        fn $name() {
            let made = $crate::contract::$name(|| $backend, $crate::Group::$group);
            assert!(made.is_ok(), "{made:?}");
        }
    };
}

/// Tests with tensors of more than 2^31 elements (up to 17 GiB at a time, one test after the other), named
/// `huge_…` and always ignored.
#[macro_export]
macro_rules! huge_suite {
    ($backend:expr) => {
        $crate::huge_suite!(@each $backend;
            add huge_add, append_rows huge_append_rows, apply_rope huge_apply_rope, argmax huge_argmax,
            attention huge_attention, compute_attention_scores huge_compute_attention_scores, embed huge_embed,
            matmul huge_matmul, mul huge_mul, rmsnorm huge_rmsnorm, silu huge_silu, softmax huge_softmax,
            weighted_sum_rows huge_weighted_sum_rows);
    };
    (@each $backend:expr; $($op:ident $name:ident),*) => {
        $($crate::huge_suite!(@one $backend; $op $name);)*
    };
    (@one $backend:expr; $op:ident $name:ident) => {
        #[test]
        #[ignore = "needs gigabytes of device memory"]
        fn $name() {
            let run = $crate::ops::$op::run(&$backend, $crate::Group::Huge);
            assert!(run.as_ref().is_ok_and(|report| report.cases > 0), "{run:?}");
        }
    };
}
