//! Memory for intermediate values that lives as long as its thread.

use std::cell::RefCell;

use super::part::part_mut;

thread_local! {
    static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a cache line; vectors that start on one never touch two.
const LINE: usize = 64;

/// Calls `body` with `len` values of any content, the first at the start of a cache line. The memory is kept for the
/// thread's next call; a call within `body`, or another task that the thread takes up meanwhile, gets its own.
pub(crate) fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut spare = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let slack = LINE / size_of::<f32>();
    if spare.len() < len + slack {
        spare.resize(len + slack, 0.0);
    }
    let start = spare.as_ptr().align_offset(LINE).min(slack);
    let result = body(part_mut(&mut spare, start..start + len));
    SPARE.with_borrow_mut(|spares| spares.push(spare));
    result
}
