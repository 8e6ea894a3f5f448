//! The pinned compiler: installed into the target folder by pip with locked hashes, run as processes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::manifest::Resources;
use crate::project::{Project, Variant};
use crate::{Result, sha256};

/// What pip installs.
pub const REQUIREMENTS: &str = include_str!("../requirements.txt");
const DRIVER: &str = include_str!("nvrtc.py");

/// An installed compiler.
#[derive(Debug)]
pub struct Toolchain {
    folder: PathBuf,
}

#[derive(Serialize)]
struct Request<'r> {
    library: PathBuf,
    jobs: Vec<Job<'r>>,
}

#[derive(Serialize)]
struct Job<'r> {
    name: &'r str,
    source: &'r str,
    options: &'r [String],
}

#[derive(Deserialize)]
struct Answer {
    ptx: Option<String>,
    log: String,
}

impl Toolchain {
    /// The compiler in the target folder, installed first if it is not there.
    ///
    /// # Errors
    /// No wheels for this system, no Python, or what pip says.
    pub fn install(project: &Project) -> Result<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err("the pinned compiler is for Linux on x86-64; elsewhere, use --offline".to_owned());
        }
        let folder = project.target().join("kernel-tools").join(&sha256(REQUIREMENTS.as_bytes())[..16]);
        if !folder.is_dir() {
            let part = beside(&folder, "part");
            let outcome =
                pip(&part).and_then(|()| std::fs::rename(&part, &folder).map_err(|e| e.to_string()));
            if let Err(problem) = outcome {
                let _ = std::fs::remove_dir_all(&part);
                // Unless another process has installed it meanwhile.
                if !folder.is_dir() {
                    return Err(problem);
                }
            }
        }
        Ok(Self { folder })
    }

    /// PTX of every variant, in order.
    ///
    /// # Errors
    /// What the compiler logs for a source that it does not take, or prints a warning for.
    pub fn compile(&self, variants: &[Variant]) -> Result<Vec<String>> {
        let share = variants.len().div_ceil(workers()).max(1);
        let parts: Vec<Result<Vec<String>>> = std::thread::scope(|scope| {
            let running: Vec<_> =
                variants.chunks(share).map(|part| scope.spawn(move || self.compile_part(part))).collect();
            let lost = |_| Err("a compiling thread panicked".to_owned());
            running.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
        });
        Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    fn compile_part(&self, variants: &[Variant]) -> Result<Vec<String>> {
        let library = self.folder.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        let request = Request { library, jobs: variants.iter().map(job).collect() };
        let request = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
        let mut python = Command::new("python3");
        let answer = run(python.arg("-c").arg(DRIVER), &request)?;
        let answers: Vec<Answer> = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        let ptx = |(variant, answer): (&Variant, Answer)| match answer.ptx {
            Some(ptx) if answer.log.trim_matches(['\0', '\n']).is_empty() => Ok(ptx),
            _ => Err(format!("{}:\n{}", variant.name, answer.log)),
        };
        variants.iter().zip(answers).map(ptx).collect()
    }

    /// What each variant takes on each architecture that it promises, in order.
    ///
    /// # Errors
    /// What ptxas says about PTX that it does not take.
    pub fn assemble(&self, variants: &[Variant], ptx: &[String]) -> Result<Vec<Vec<Resources>>> {
        let work = beside(&self.folder, "work");
        std::fs::create_dir_all(&work).map_err(|e| e.to_string())?;
        let next = AtomicUsize::new(0);
        let done = Mutex::new(vec![Vec::new(); variants.len()]);
        let outcome = std::thread::scope(|scope| {
            let worker = || {
                while let Some((index, variant)) = take(&next, variants) {
                    let resources = self.assemble_one(&work, variant, ptx.get(index).map_or("", |p| p))?;
                    if let Some(slot) = done.lock().map_err(|e| e.to_string())?.get_mut(index) {
                        *slot = resources;
                    }
                }
                Ok(())
            };
            let running: Vec<_> = (0..workers()).map(|_| scope.spawn(worker)).collect();
            let lost = |_| Err("an assembling thread panicked".to_owned());
            running.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect::<Result<Vec<()>>>()
        });
        let _ = std::fs::remove_dir_all(&work);
        outcome?;
        done.into_inner().map_err(|e| e.to_string())
    }

    fn assemble_one(&self, work: &Path, variant: &Variant, ptx: &str) -> Result<Vec<Resources>> {
        let file = work.join(format!("{}.ptx", variant.name));
        std::fs::write(&file, ptx).map_err(|e| e.to_string())?;
        let one = |architecture: &'static str| {
            let mut ptxas = Command::new(self.folder.join("nvidia/cuda_nvcc/bin/ptxas"));
            ptxas.arg("-v").arg(format!("-arch={architecture}")).arg(&file).arg("-o");
            let output =
                ptxas.arg(file.with_extension("cubin")).output().map_err(|e| format!("ptxas: {e}"))?;
            let log = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                return Err(format!("ptxas does not take {} for {architecture}:\n{log}", variant.name));
            }
            resources(&log, architecture).ok_or_else(|| {
                format!("ptxas reports no resources of {} for {architecture}:\n{log}", variant.name)
            })
        };
        variant.architectures().into_iter().map(one).collect()
    }
}

fn job(variant: &Variant) -> Job<'_> {
    Job { name: &variant.name, source: &variant.source, options: &variant.options }
}

/// The next variant that nobody has taken.
fn take<'v>(next: &AtomicUsize, variants: &'v [Variant]) -> Option<(usize, &'v Variant)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, variants.get(index)?))
}

/// A path next to `folder` that nothing else uses.
fn beside(folder: &Path, purpose: &str) -> PathBuf {
    static USED: AtomicUsize = AtomicUsize::new(0);
    let number = USED.fetch_add(1, Ordering::Relaxed);
    folder.with_extension(format!("{purpose}-{}-{number}", std::process::id()))
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn pip(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let list = folder.join("requirements.txt");
    std::fs::write(&list, REQUIREMENTS).map_err(|e| e.to_string())?;
    let mut python = Command::new("python3");
    python.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    python.args(["--root-user-action=ignore", "--require-hashes", "--no-deps", "--only-binary=:all:"]);
    run(python.arg("--target").arg(folder).arg("--requirement").arg(list), &[]).map(drop)
}

/// A Python process's standard output.
fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let remedy = "the pinned compiler needs python3 with pip; without them, use --offline";
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("python3: {e}; {remedy}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).map_err(|e| format!("python3: {e}"))?;
    }
    let output = child.wait_with_output().map_err(|e| format!("python3: {e}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("python3 failed; {remedy}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The numbers in what `ptxas -v` prints.
fn resources(log: &str, architecture: &str) -> Option<Resources> {
    let numbers = |unit: &str| {
        let words: Vec<&str> = log.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty()).collect();
        let unit: Vec<&str> = unit.split(' ').collect();
        let hits = words.windows(unit.len() + 1).filter(|w| w.get(1..) == Some(&unit[..]));
        hits.filter_map(|w| w.first()?.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    Some(Resources {
        architecture: architecture.to_owned(),
        registers: numbers("registers").into_iter().max()?,
        shared: numbers("bytes smem").into_iter().max().unwrap_or(0),
        spills: numbers("bytes spill stores").iter().chain(&numbers("bytes spill loads")).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_log_of_ptxas() {
        let log = "ptxas info    : Compiling entry function 'f' for 'sm_90'\nptxas info    : Function properties for f\n    \
                   8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\nptxas info    : Used 37 registers, \
                   used 1 barriers, 128 bytes smem, 408 bytes cmem[0]\n";
        let want = Resources { architecture: "sm_90".to_owned(), registers: 37, shared: 128, spills: 16 };
        assert_eq!(resources(log, "sm_90"), Some(want));
        assert_eq!(resources("nothing", "sm_90"), None);
    }
}
