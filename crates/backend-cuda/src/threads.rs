//! Work on several threads.

use std::panic::resume_unwind;
use std::thread;

use backend_api::Result;

/// Does `work` on this thread and on as many others as make it `threads`, or as the system allows; the first error.
pub(crate) fn on_threads(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let other = |_| thread::Builder::new().spawn_scoped(scope, &work).ok();
        let others: Vec<_> = (1..threads).map_while(other).collect();
        others
            .into_iter()
            .fold(work(), |done, other| done.and(other.join().unwrap_or_else(|panic| resume_unwind(panic))))
    })
}
