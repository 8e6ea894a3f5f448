//! Ctrl-C: the first ends what runs after its current step, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Listens for Ctrl-C; the flag is set when it comes.
pub(crate) fn listen() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    let listening = ctrlc::set_handler(move || {
        if set.swap(true, Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(e) = listening {
        tracing::warn!("Ctrl-C ends the program without a summary: {e}");
    }
    flag
}
