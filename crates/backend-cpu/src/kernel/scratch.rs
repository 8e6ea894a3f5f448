//! Memory for intermediate values that lives as long as its thread.

use std::cell::Cell;

thread_local! {
    static SPARE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `body` with `len` values of any content. The memory is kept for the thread's next call; a call within
/// `body`, or another task that the thread takes up meanwhile, gets memory of its own.
pub(crate) fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut spare = SPARE.take();
    if spare.len() < len {
        spare.resize(len, 0.0);
    }
    let result = body(spare.get_mut(..len).unwrap_or(&mut []));
    SPARE.set(spare);
    result
}
