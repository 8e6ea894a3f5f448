//! Standard output that ends quietly when nobody reads it, lines on standard error, and progress bars.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// Writes text to standard output, at once.
///
/// # Errors
/// [`Failure::Closed`] if the reader is gone, [`Failure::Failed`] for anything else.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::Closed,
        _ => {
            Failure::Failed(format!("cannot write to standard output: {e}; send it to a file that has room"))
        }
    })
}

/// Writes a value to standard output as JSON.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&json(value)?)
}

/// A value as JSON text.
///
/// # Errors
/// [`Failure::Failed`] for a value that JSON cannot hold.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n").map_err(|e| Failure::Failed(format!("cannot write JSON: {e}")))
}

/// Whether a person reads standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes a line to standard error; where that is closed there is nobody to tell.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The text on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Bytes for people: MiB.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// How long something may take before a bar is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// A progress bar on standard error, shown only on a terminal and only for what takes longer than a second.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    what: &'static str,
    in_bytes: bool,
    start: Instant,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    /// Progress in tokens or entries.
    pub(crate) fn counting(what: &'static str) -> Self {
        Self::new(what, false)
    }

    /// Progress in bytes.
    pub(crate) fn of_bytes(what: &'static str) -> Self {
        Self::new(what, true)
    }

    fn new(what: &'static str, in_bytes: bool) -> Self {
        let shared = Shared { what, in_bytes, start: Instant::now(), bar: OnceLock::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Shows that `done` of `total` is done.
    pub(crate) fn set(&self, done: u64, total: u64) {
        let shared = &self.shared;
        if shared.start.elapsed() < PATIENCE {
            return;
        }
        let bar = shared.bar.get_or_init(|| {
            let template = if shared.in_bytes {
                "{msg} {wide_bar} {bytes}/{total_bytes} {eta}"
            } else {
                "{msg} {wide_bar} {pos}/{len} {eta}"
            };
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::new(total).with_message(shared.what);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_position(done);
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = self.shared.bar.get() {
            bar.finish_and_clear();
        }
    }
}
