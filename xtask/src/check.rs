//! `check-kernels`: Rust, CUDA, PTX, MANIFEST and the embedded archive agree.

use std::collections::BTreeSet;
use std::fs;

use crate::generate::{ARCHIVE, Generated, MANIFEST, file_name, generated, packed, spills, texts};
use crate::manifest::Manifest;
use crate::project::{Project, Variant, extension, files, read, stem};
use crate::toolchain::Toolchain;
use crate::{Result, manifest, ptx, sha256, source};

const REBUILD: &str = "run `cargo xtask build-kernels` and commit what it writes";
const AGREE: &str =
    "make `kernels/` and `crates/backend-cuda/src/kernels/` agree, then run `cargo xtask build-kernels`";
const LEFT_OUT: &str = "left out, for want of the compiler: that the sources compile to these very bytes, and that ptxas \
                        takes them for every architecture with the registers and spills that MANIFEST states";

/// What needs no compiler.
///
/// # Errors
/// Everything that disagrees, each with the command that mends it.
pub fn offline(project: &Project) -> Result<String> {
    let variants = consistent(project)?;
    Ok(format!("{} variants agree with their declarations, sources and hashes\n{LEFT_OUT}", variants.len()))
}

/// Everything: what [`offline`] checks, a fresh compilation, and assembly for every architecture.
///
/// # Errors
/// Everything that disagrees, each with the command that mends it.
pub fn online(project: &Project) -> Result<String> {
    let variants = consistent(project)?;
    let tools = Toolchain::install(project)?;
    let (fresh, made) = generated(&tools, &variants)?;
    report(fresh_problems(project, &fresh, &made)?)?;
    let assembled: usize = made.values().map(|entry| entry.resources.len()).sum();
    let spilling = spills(&made).count();
    Ok(format!(
        "{} variants compile to the committed bytes; {assembled} assemblies, {spilling} with spills, as MANIFEST states",
        variants.len()
    ))
}

/// The variants, once everything that needs no compiler agrees.
fn consistent(project: &Project) -> Result<Vec<Variant>> {
    let mut problems = declaration_problems(project)?;
    report(std::mem::take(&mut problems))?;
    let variants = project.variants()?;
    let folder = project.ptx();
    let committed = manifest::parse(&read(&folder.join(MANIFEST)).map_err(|e| format!("{e}; {REBUILD}"))?)?;
    let mut texts_found = Vec::new();
    for variant in &variants {
        let text = fs::read_to_string(folder.join(format!("{}.ptx", variant.name))).unwrap_or_default();
        let of_this = variant_problems(variant, &text, &committed);
        problems.extend(of_this.into_iter().map(|problem| format!("{}: {problem}; {REBUILD}", variant.name)));
        texts_found.push(text);
    }
    let texts = texts(&variants, &texts_found);
    for (name, text) in texts.iter().filter(|(name, _)| name.ends_with(".cu")) {
        if fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text) {
            problems.push(format!("{name}: is not `kernels/{name}` with its includes in place; {REBUILD}"));
        }
    }
    if fs::read(folder.join(ARCHIVE)).ok() != Some(packed(&texts)) {
        problems.push(format!("{ARCHIVE}: does not hold the files beside it; {REBUILD}"));
    }
    problems.extend(leftovers(project, &texts.into_keys().collect(), &variants, &committed)?);
    report(problems)?;
    Ok(variants)
}

/// Each source has its declaration and each declaration its source, and the two agree.
fn declaration_problems(project: &Project) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let declared = project.declared()?;
    for declaration in &declared {
        let name = &declaration.name;
        let file = format!("kernels/{name}.cu");
        match fs::read_to_string(project.kernels().join(format!("{name}.cu"))) {
            Err(e) => problems.push(format!("{file}: {e}; {AGREE}")),
            Ok(cu) => {
                let of_this = source::problems(&cu, declaration);
                problems.extend(of_this.into_iter().map(|problem| format!("{file}: {problem}; {AGREE}")));
            }
        }
    }
    for path in files(&project.kernels())?.iter().filter(|path| extension(path) == "cu") {
        if !declared.iter().any(|d| d.name == stem(path)) {
            problems.push(format!("{}: no `kernel!` declares it; {AGREE}", path.display()));
        }
    }
    Ok(problems)
}

fn variant_problems(variant: &Variant, text: &str, committed: &Manifest) -> Vec<String> {
    let Some(entry) = committed.get(&variant.name) else { return vec!["MANIFEST lacks it".to_owned()] };
    if text.is_empty() {
        return vec!["its PTX is missing".to_owned()];
    }
    let mut problems = ptx::problems(text, &variant.declaration, &variant.target);
    if entry.inputs != variant.inputs() {
        problems.push("its source, options or compiler changed since it was compiled".to_owned());
    }
    if entry.ptx != sha256(text.as_bytes()) {
        problems.push("its PTX is not the one that was compiled".to_owned());
    }
    let assembled: Vec<&str> = entry.resources.iter().map(|r| r.architecture.as_str()).collect();
    if assembled != variant.architectures() {
        problems.push("MANIFEST does not state what it takes on each architecture".to_owned());
    }
    problems
}

/// Generated files, and lines of the manifest, that nothing declares.
fn leftovers(
    project: &Project,
    texts: &BTreeSet<String>,
    variants: &[Variant],
    committed: &Manifest,
) -> Result<Vec<String>> {
    let known = |name: &String| texts.contains(name) || name == ARCHIVE || name == MANIFEST;
    let stray = files(&project.ptx())?
        .iter()
        .map(|path| file_name(path))
        .filter(|name| !known(name))
        .collect::<Vec<_>>();
    let unknown = committed.keys().filter(|name| !variants.iter().any(|v| v.name == **name)).cloned();
    Ok(stray
        .into_iter()
        .chain(unknown)
        .map(|name| format!("{name}: no kernel declares it; {REBUILD}"))
        .collect())
}

/// Where a fresh compilation differs from what is committed.
fn fresh_problems(project: &Project, fresh: &Generated, made: &Manifest) -> Result<Vec<String>> {
    let folder = project.ptx();
    let committed = manifest::parse(&read(&folder.join(MANIFEST))?)?;
    let mut problems: Vec<String> = fresh
        .iter()
        .filter(|(name, bytes)| fs::read(folder.join(name)).ok().as_ref() != Some(*bytes))
        .map(|(name, _)| format!("{name}: a fresh compilation gives other bytes; {REBUILD}"))
        .collect();
    for (name, architecture, bytes) in spills(made) {
        let stated =
            committed.get(name).and_then(|e| e.resources.iter().find(|r| r.architecture == architecture));
        let allowed = stated.map_or(0, |r| r.spills);
        if bytes > allowed {
            problems.push(format!(
                "{name}: spills {bytes} bytes on {architecture}, MANIFEST allows {allowed}; {REBUILD}"
            ));
        }
    }
    Ok(problems)
}

fn report(problems: Vec<String>) -> Result<()> {
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}
