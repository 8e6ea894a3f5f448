//! Work that breaks captures off, kept from meeting them.
//!
//! What waits for a whole context ends the captures in it, those of other threads too.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Work to be done while nothing is captured. It must not come back here.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// The captures of this process.
static CAPTURES: Mutex<Captures> = Mutex::new(Captures { running: 0, waiting: Vec::new() });

struct Captures {
    running: usize,
    waiting: Vec<Work>,
}

impl Captures {
    fn lock() -> MutexGuard<'static, Self> {
        CAPTURES.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A capture that no such work meets. The last to end does what has waited for that.
#[derive(Debug)]
pub(crate) struct Undisturbed(());

impl Undisturbed {
    pub(crate) fn new() -> Self {
        Captures::lock().running += 1;
        Self(())
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        let mut captures = Captures::lock();
        captures.running = captures.running.saturating_sub(1);
        if captures.running == 0 {
            // Locked, so that no capture begins meanwhile.
            std::mem::take(&mut captures.waiting).into_iter().for_each(|work| work());
        }
    }
}

/// Does the work now, or when the last capture of the process has ended. Waits for no capture, so that it may be called during
/// one and from `drop`.
pub(crate) fn between_captures(work: Work) {
    let mut captures = Captures::lock();
    if captures.running == 0 { work() } else { captures.waiting.push(work) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn work_waits_for_the_last_capture() {
        let done = Arc::new(AtomicUsize::new(0));
        let work = || {
            let done = Arc::clone(&done);
            between_captures(Box::new(move || {
                done.fetch_add(1, Relaxed);
            }));
        };
        let (one, two) = (Undisturbed::new(), Undisturbed::new());
        work();
        work();
        drop(one);
        assert_eq!(done.load(Relaxed), 0, "one is running");
        drop(two);
        while done.load(Relaxed) < 2 {
            // A capture of another test may still run.
            std::thread::yield_now();
        }
        work();
        while done.load(Relaxed) < 3 {
            std::thread::yield_now();
        }
    }
}
