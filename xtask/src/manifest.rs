//! `MANIFEST`: what each PTX file was made from, its hash, and what it takes on each architecture.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::Result;

const TITLE: &str = "# Written by `cargo xtask build-kernels`, checked by `cargo xtask check-kernels`.\n";

/// What one kernel takes on one architecture, as ptxas reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// `sm_90` and the like.
    pub architecture: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// Bytes of spill stores and loads.
    pub spills: u32,
}

/// One PTX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Hash of source, options and compiler.
    pub inputs: String,
    /// Hash of the PTX.
    pub ptx: String,
    /// By architecture.
    pub resources: Vec<Resources>,
}

/// All PTX files by name.
pub type Manifest = BTreeMap<String, Entry>;

/// The text of a manifest.
pub fn render(manifest: &Manifest) -> String {
    let mut text = TITLE.to_owned();
    for (name, entry) in manifest {
        let _ = writeln!(text, "{name} inputs {} ptx {}", entry.inputs, entry.ptx);
        for r in &entry.resources {
            let (registers, shared, spills) = (r.registers, r.shared, r.spills);
            let _ =
                writeln!(text, "  {} registers {registers} shared {shared} spills {spills}", r.architecture);
        }
    }
    text
}

/// A manifest from its text.
///
/// # Errors
/// The line that is in another form.
pub fn parse(text: &str) -> Result<Manifest> {
    let mut manifest = Manifest::new();
    let mut last = None;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let wrong = || format!("MANIFEST:{}: `{line}` is in no known form", number + 1);
        match words[..] {
            [name, "inputs", inputs, "ptx", ptx] => {
                let entry = Entry { inputs: inputs.to_owned(), ptx: ptx.to_owned(), resources: Vec::new() };
                manifest.insert(name.to_owned(), entry);
                last = Some(name.to_owned());
            }
            [architecture, "registers", registers, "shared", shared, "spills", spills] => {
                let number = |word: &str| word.parse().map_err(|_| wrong());
                let resources = Resources {
                    architecture: architecture.to_owned(),
                    registers: number(registers)?,
                    shared: number(shared)?,
                    spills: number(spills)?,
                };
                let entry = last.as_ref().and_then(|name| manifest.get_mut(name)).ok_or_else(wrong)?;
                entry.resources.push(resources);
            }
            _ => return Err(wrong()),
        }
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_round_trip_and_other_lines_are_named() {
        let resources = Resources { architecture: "sm_90".to_owned(), registers: 32, shared: 128, spills: 4 };
        let entry = Entry { inputs: "aa".to_owned(), ptx: "bb".to_owned(), resources: vec![resources] };
        let manifest = Manifest::from([("add.f32.compute_50".to_owned(), entry)]);
        let text = render(&manifest);
        assert_eq!(parse(&text).unwrap(), manifest);
        assert!(parse(&text.replace("spills 4", "spills x")).unwrap_err().contains("MANIFEST:3"));
        assert!(parse("  sm_90 registers 1 shared 2 spills 3").unwrap_err().contains("MANIFEST:1"));
    }
}
