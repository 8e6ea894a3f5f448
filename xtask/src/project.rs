//! Where things are, and the list of everything that is compiled.

use std::path::{Path, PathBuf};

use crate::declaration::{Declaration, parse};
use crate::source::flatten;
use crate::{Result, sha256};

/// The newest PTX ISA that the promised drivers take.
pub const ISA: (u32, u32) = (8, 0);

/// Architectures that variants are assembled for.
pub const ARCHITECTURES: [&str; 12] = [
    "sm_50", "sm_52", "sm_60", "sm_61", "sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100",
    "sm_120",
];

/// A checkout.
#[derive(Clone, Debug)]
pub struct Project {
    root: PathBuf,
    target: PathBuf,
}

/// One compilation: a kernel for one choice of element types and one target.
#[derive(Clone, Debug)]
pub struct Variant {
    /// `KERNEL.TYPES.TARGET`, as its file is called.
    pub name: String,
    /// The kernel's declaration in Rust.
    pub declaration: Declaration,
    /// The kernel's source with its includes in place.
    pub source: String,
    /// Options for NVRTC.
    pub options: Vec<String>,
    /// `compute_50` and the like.
    pub target: String,
}

impl Variant {
    /// Hash of everything that the PTX follows from.
    pub fn inputs(&self) -> String {
        let pin = crate::toolchain::REQUIREMENTS;
        sha256(format!("{pin}\n{}\n{}\n{}", self.name, self.options.join(" "), self.source).as_bytes())
    }

    /// The architectures that must take this variant.
    pub fn architectures(&self) -> Vec<&'static str> {
        let number = |name: &str| name.rsplit('_').next().and_then(|n| n.parse::<u32>().ok());
        if let Some(exact) = self.target.strip_suffix('a') {
            return match exact {
                "compute_90" => vec!["sm_90a"],
                _ => Vec::new(),
            };
        }
        ARCHITECTURES.into_iter().filter(|arch| number(arch) >= number(&self.target)).collect()
    }
}

impl Project {
    /// The checkout at `root`, with tools and intermediate files in `target`.
    pub fn at(root: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), target: target.into() }
    }

    /// The checkout that this program was built from.
    ///
    /// # Errors
    /// It has moved.
    pub fn here() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        if root.join("kernels").is_dir() {
            let target =
                std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
            return Ok(Self::at(root, target));
        }
        Err(format!("{} has no folder `kernels`; run this as `cargo xtask` in the checkout", root.display()))
    }

    /// The checkout's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The `.cu` files.
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// Declarations in Rust.
    pub fn declarations(&self) -> PathBuf {
        self.root.join("crates/backend-cuda/src/kernels")
    }

    /// What `build-kernels` writes.
    pub fn ptx(&self) -> PathBuf {
        self.root.join("crates/backend-cuda/ptx")
    }

    /// Where tools and intermediate files go.
    pub fn target(&self) -> PathBuf {
        self.target.clone()
    }

    /// Every kernel's declaration, by name.
    ///
    /// # Errors
    /// A file that cannot be read, or a declaration in another form than [`parse`] takes.
    pub fn declared(&self) -> Result<Vec<Declaration>> {
        let mut all = Vec::new();
        for path in files(&self.declarations())? {
            if extension(&path) == "rs"
                && let Some(declaration) = parse(&read(&path)?).map_err(|e| at(&path, &e))?
            {
                all.push(declaration);
            }
        }
        Ok(all)
    }

    /// Everything that is compiled, by name.
    ///
    /// # Errors
    /// A source that is missing or includes what is missing.
    pub fn variants(&self) -> Result<Vec<Variant>> {
        let mut all = Vec::new();
        for declaration in self.declared()? {
            let source = flatten(&self.kernels(), &format!("{}.cu", declaration.name))?;
            for target in &declaration.targets {
                for types in &declaration.types {
                    all.push(variant(&declaration, &source, types, target)?);
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}

fn variant(declaration: &Declaration, source: &str, types: &str, target: &str) -> Result<Variant> {
    let (scalar, weight) = types.split_once('-').unwrap_or((types, types));
    if let Some(unknown) = [scalar, weight].into_iter().find(|t| !["f32", "f16", "bf16", "u32"].contains(t)) {
        return Err(format!("{}: `{unknown}` is no element type", declaration.name));
    }
    Ok(Variant {
        name: format!("{}.{types}.{target}", declaration.name),
        declaration: declaration.clone(),
        source: source.to_owned(),
        options: vec![format!("-arch={target}"), format!("-DSCALAR={scalar}"), format!("-DWEIGHT={weight}")],
        target: target.to_owned(),
    })
}

/// The files of a folder, sorted by name.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| at(folder, &e.to_string()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

/// A text file.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| at(path, &e.to_string()))
}

/// File name's last extension, or nothing.
pub fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

/// File name without its last extension.
pub fn stem(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn at(path: &Path, what: &str) -> String {
    format!("{}: {what}", path.display())
}
