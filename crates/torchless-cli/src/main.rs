//! The command line.

mod args;
mod bench;

mod commands;
mod failure;
mod golden;
mod interrupt;
mod output;
mod source;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use args::Command;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    start_log();
    let done = args::parse().and_then(|cli| match cli.command {
        Command::Generate(args) => commands::generate::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Estimate(args) => commands::estimate::run(&args),
    });
    done.map_or_else(failure::Failure::report, |()| ExitCode::SUCCESS)
}

/// Logs to standard error what `RUST_LOG` asks for; nothing without it.
fn start_log() {
    if std::env::var_os("RUST_LOG").is_none() {
        return;
    }
    match EnvFilter::try_from_default_env() {
        Ok(filter) => {
            let ansi = io::stderr().is_terminal();
            tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(io::stderr).init();
        }
        Err(e) => output::note(&format!("warning: RUST_LOG is not understood: {e}; try RUST_LOG=debug")),
    }
}
