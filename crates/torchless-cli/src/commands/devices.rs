//! `torchless devices`.

use serde::Serialize;
use torchless::{BackendPreference, Candidate, KernelBackend, init_backend};

use crate::args::DevicesArgs;
use crate::failure::Failure;
use crate::output::{mib, print, print_json};

/// A backend as JSON shows it.
#[derive(Serialize)]
struct Device<'a> {
    backend: &'a str,
    usable: bool,
    chosen: bool,
    reason: &'a str,
    name: Option<&'a str>,
    features: &'a [String],
    total_memory: Option<u64>,
    free_memory: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let backend = init_backend(BackendPreference::Auto)?;
    let free = backend.memory().free;
    let device = |candidate: &'_ Candidate| {
        let info = candidate.device.as_ref();
        let chosen = info.is_some() && candidate.backend == backend.name();
        (chosen, info.cloned())
    };
    let found: Vec<_> = backend.report().iter().map(|candidate| (candidate, device(candidate))).collect();
    let devices: Vec<_> = found
        .iter()
        .map(|(candidate, (chosen, info))| Device {
            backend: candidate.backend,
            usable: candidate.is_usable(),
            chosen: *chosen,
            reason: &candidate.reason,
            name: info.as_ref().map(|i| i.name.as_str()),
            features: info.as_ref().map_or(&[], |i| &i.features),
            total_memory: info.as_ref().and_then(|i| i.total_memory),
            free_memory: free.filter(|_| *chosen),
        })
        .collect();
    if args.json {
        return print_json(&devices);
    }
    devices.iter().try_for_each(|device| print(&device.line()))
}

impl Device<'_> {
    fn line(&self) -> String {
        let Some(name) = self.name else {
            return format!("{:<6} not usable: {}\n", self.backend, self.reason);
        };
        let mut line = format!("{:<6} usable: {name}", self.backend);
        for feature in self.features {
            line += &format!(", {feature}");
        }
        if let Some(total) = self.total_memory {
            line += &format!(", {}", mib(total));
        }
        if let Some(free) = self.free_memory {
            line += &format!(" ({} free)", mib(free));
        }
        format!("{line}; {}\n", self.reason)
    }
}
