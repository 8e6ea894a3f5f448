//! `torchless devices`.

use serde::Serialize;
use torchless::Candidate;

use crate::args::DevicesArgs;
use crate::failure::Failure;
use crate::output::{mib, print, print_json};

/// A device as JSON shows it.
#[derive(Serialize)]
struct Device<'a> {
    backend: &'a str,
    /// What `--device` takes for it.
    device: String,
    usable: bool,
    /// Whether it is what `--device auto` takes.
    chosen: bool,
    reason: &'a str,
    name: Option<&'a str>,
    features: &'a [String],
    total_memory: Option<u64>,
    free_memory: Option<u64>,
    /// What makes products, or why it is missing.
    product_library: Option<&'a str>,
}

/// Runs the command.
pub(crate) fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let found = torchless::devices();
    let chosen = found.iter().position(Candidate::is_usable);
    let devices: Vec<_> =
        found.iter().enumerate().map(|(i, candidate)| Device::new(candidate, chosen == Some(i))).collect();
    if args.json {
        return print_json(&devices);
    }
    devices.iter().try_for_each(|device| print(&device.line()))
}

impl<'a> Device<'a> {
    fn new(candidate: &'a Candidate, chosen: bool) -> Self {
        let info = candidate.device.as_ref();
        Self {
            backend: candidate.backend,
            device: candidate.preference.to_string(),
            usable: candidate.is_usable(),
            chosen,
            reason: &candidate.reason,
            name: info.map(|i| i.name.as_str()),
            features: info.map_or(&[], |i| &i.features),
            total_memory: info.and_then(|i| i.total_memory),
            free_memory: candidate.free_memory,
            product_library: candidate.product_library.as_deref(),
        }
    }

    fn line(&self) -> String {
        let Some(name) = self.name else {
            return format!("{:<7} not usable: {}\n", self.device, self.reason);
        };
        let mut line = format!("{:<7} usable: {name}", self.device);
        for feature in self.features {
            line += &format!(", {feature}");
        }
        if let Some(total) = self.total_memory {
            line += &format!(", {}", mib(total));
        }
        if let Some(free) = self.free_memory {
            line += &format!(" ({} free)", mib(free));
        }
        line += &format!("; {}\n", self.reason);
        match self.product_library {
            Some(library) => line + &format!("{:<7} {library}\n", ""),
            None => line,
        }
    }
}
