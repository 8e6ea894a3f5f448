//! `build-kernels`: writes everything under `crates/backend-cuda/ptx/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::manifest::{Entry, Manifest};
use crate::project::{Project, Variant, files};
use crate::toolchain::Toolchain;
use crate::{Result, archive, manifest, sha256};

/// Name of the embedded archive.
pub const ARCHIVE: &str = "kernels.bin";
/// Name of the manifest.
pub const MANIFEST: &str = "MANIFEST";

/// The generated files by name.
pub type Generated = BTreeMap<String, Vec<u8>>;

/// Compiles every kernel and writes what follows from it; removes what no longer does.
///
/// # Errors
/// What the compiler or the assembler says, or a file that cannot be written.
pub fn build(project: &Project) -> Result<String> {
    let variants = project.variants()?;
    let tools = Toolchain::install(project)?;
    let (generated, manifest) = generated(&tools, &variants)?;
    let folder = project.ptx();
    let io = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
    fs::create_dir_all(&folder).map_err(|e| io(&folder, e))?;
    for path in files(&folder)? {
        if !generated.contains_key(&file_name(&path)) {
            fs::remove_file(&path).map_err(|e| io(&path, e))?;
        }
    }
    for (name, bytes) in &generated {
        let path = folder.join(name);
        if fs::read(&path).ok().as_ref() != Some(bytes) {
            fs::write(&path, bytes).map_err(|e| io(&path, e))?;
        }
    }
    let spilling: Vec<_> =
        spills(&manifest).map(|(name, arch, bytes)| format!("  {name} {arch} {bytes}")).collect();
    let spilling = if spilling.is_empty() {
        String::new()
    } else {
        format!("\nbytes spilled:\n{}", spilling.join("\n"))
    };
    Ok(format!("{} variants written to {}{spilling}", variants.len(), folder.display()))
}

/// Variants that spill registers: name, architecture, bytes.
pub fn spills(manifest: &Manifest) -> impl Iterator<Item = (&str, &str, u32)> {
    manifest.iter().flat_map(|(name, entry)| {
        let spilling = entry.resources.iter().filter(|r| r.spills > 0);
        spilling.map(move |r| (name.as_str(), r.architecture.as_str(), r.spills))
    })
}

/// Everything that `build-kernels` writes, and the manifest in it.
///
/// # Errors
/// What the compiler or the assembler says.
pub fn generated(tools: &Toolchain, variants: &[Variant]) -> Result<(Generated, Manifest)> {
    let ptx = tools.compile(variants)?;
    let resources = tools.assemble(variants, &ptx)?;
    let entry = |((v, ptx), resources): ((&Variant, &String), _)| {
        (v.name.clone(), Entry { inputs: v.inputs(), ptx: sha256(ptx.as_bytes()), resources })
    };
    let manifest: Manifest = variants.iter().zip(&ptx).zip(resources).map(entry).collect();
    let texts = texts(variants, &ptx);
    let mut generated: Generated =
        texts.iter().map(|(n, text)| (n.clone(), text.clone().into_bytes())).collect();
    generated.insert(ARCHIVE.to_owned(), packed(&texts));
    generated.insert(MANIFEST.to_owned(), manifest::render(&manifest).into_bytes());
    Ok((generated, manifest))
}

/// PTX and flattened sources by file name.
pub fn texts(variants: &[Variant], ptx: &[String]) -> BTreeMap<String, String> {
    let compiled = variants.iter().zip(ptx).map(|(v, ptx)| (format!("{}.ptx", v.name), ptx.clone()));
    let sources = variants.iter().map(|v| (format!("{}.cu", v.declaration.name), v.source.clone()));
    compiled.chain(sources).collect()
}

/// The archive of the texts.
pub fn packed(texts: &BTreeMap<String, String>) -> Vec<u8> {
    archive::pack(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
}

/// The last part of a path.
pub fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
