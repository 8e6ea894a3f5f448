//! Every kind of drift between Rust, CUDA, PTX, MANIFEST and the archive is caught, in a copy of the checkout.

#![expect(clippy::unwrap_used, reason = "helpers of the tests may panic as the tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use xtask::generate::{self, ARCHIVE, MANIFEST, packed};
use xtask::project::Project;
use xtask::{check, manifest, sha256};

const RUST: &str = "crates/backend-cuda/src/kernels";
const PTX: &str = "crates/backend-cuda/ptx";
const SILU: &str = "crates/backend-cuda/ptx/silu.bf16.compute_50.ptx";

/// A copy of what the checks read; of all kernels, or of one.
struct Copy {
    folder: TempDir,
    project: Project,
}

impl Copy {
    fn new(only: Option<&str>) -> Self {
        let here = Project::here().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for part in ["kernels", RUST, PTX] {
            fs::create_dir_all(folder.path().join(part)).unwrap();
            for entry in fs::read_dir(root.join(part)).unwrap() {
                let path = entry.unwrap().path();
                let wanted = |name: &str| {
                    path.extension().unwrap_or_default() == "cuh" || path.file_stem().unwrap() == name
                };
                if path.is_file() && only.is_none_or(wanted) {
                    fs::copy(&path, folder.path().join(part).join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        let project = Project::at(folder.path(), here.target());
        Self { folder, project }
    }

    fn edit(&self, file: &str, from: &str, to: &str) -> &Self {
        let path = self.folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        self
    }

    /// Makes MANIFEST and the archive agree with the PTX that lies there, as someone would who hides an edit.
    fn cover_up(&self) -> &Self {
        let folder = self.folder.path().join(PTX);
        let mut listed = manifest::parse(&fs::read_to_string(folder.join(MANIFEST)).unwrap()).unwrap();
        let mut texts = BTreeMap::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name == MANIFEST || name == ARCHIVE {
                continue;
            }
            let text = fs::read_to_string(folder.join(&name)).unwrap();
            if let Some(entry) = name.strip_suffix(".ptx").and_then(|name| listed.get_mut(name)) {
                entry.ptx = sha256(text.as_bytes());
            }
            texts.insert(name, text);
        }
        fs::write(folder.join(MANIFEST), manifest::render(&listed)).unwrap();
        fs::write(folder.join(ARCHIVE), packed(&texts)).unwrap();
        self
    }

    #[track_caller]
    fn is_caught(&self, by: &[&str]) {
        let problem = check::offline(&self.project).unwrap_err();
        for words in by.iter().chain(&["cargo xtask build-kernels"]) {
            assert!(problem.contains(words), "`{words}` is not in\n{problem}");
        }
    }
}

#[test]
fn the_checkout_agrees_and_the_report_names_what_was_left_out() {
    let copy = Copy::new(None);
    let report = check::offline(&copy.project).unwrap();
    assert!(report.contains("left out") && report.contains("ptxas"), "{report}");
    copy.cover_up();
    check::offline(&copy.project).unwrap();
}

#[test]
fn a_changed_source_is_caught() {
    let changed =
        ["silu.f32.compute_50: its source, options or compiler changed", "silu.cu: is not `kernels/silu.cu`"];
    Copy::new(None).edit("kernels/silu.cu", "silu_of(v[i])", "2.0f * silu_of(v[i])").is_caught(&changed);
    let everywhere = ["add.f32.compute_50: its source", "sample.bf16.compute_50: its source"];
    Copy::new(None).edit("kernels/common.cuh", "0x7fc00000u", "0x7fc00001u").is_caught(&everywhere);
}

#[test]
fn swapped_parameters_are_caught_on_either_side() {
    let swapped = ["kernels/silu.cu: declares", "where the Rust declaration says"];
    Copy::new(None).edit("kernels/silu.cu", "u64 rows, u64 cols", "u64 cols, u64 rows").is_caught(&swapped);
    let rust = format!("{RUST}/silu.rs");
    Copy::new(None)
        .edit(&rust, "rows: u64,\n        cols: u64", "cols: u64,\n        rows: u64")
        .is_caught(&swapped);
    Copy::new(None).edit(&rust, "x: In<'a, Scalar>", "x: Out<'a, Scalar>").is_caught(&swapped);
    Copy::new(None).edit(&rust, "rows: u64", "rows: u32").is_caught(&swapped);
    let ptx = "crates/backend-cuda/ptx/rmsnorm.bf16-bf16.compute_50.ptx";
    let copy = Copy::new(None);
    copy.edit(ptx, ".param .f32 rmsnorm_param_7", ".param .u32 rmsnorm_param_7").cover_up();
    copy.is_caught(&["rmsnorm.bf16-bf16.compute_50: declares"]);
}

#[test]
fn a_wrong_block_is_caught_on_every_side() {
    let wrong = ["kernels/silu.cu: declares", "__launch_bounds__(128)", "__launch_bounds__(256)"];
    Copy::new(None)
        .edit("kernels/silu.cu", "__launch_bounds__(256)", "__launch_bounds__(128)")
        .is_caught(&wrong);
    Copy::new(None).edit(&format!("{RUST}/silu.rs"), "block = 256", "block = 128").is_caught(&wrong);
    let copy = Copy::new(None);
    copy.edit(SILU, ".maxntid 256", ".maxntid 128").cover_up();
    copy.is_caught(&["silu.bf16.compute_50: declares", ".maxntid 128"]);
}

#[test]
fn an_edited_ptx_is_caught() {
    let copy = Copy::new(None);
    copy.edit(SILU, "ret;", "ret; // edited");
    copy.is_caught(&[
        "silu.bf16.compute_50: its PTX is not the one that was compiled",
        "kernels.bin: does not hold",
    ]);
    let copy = Copy::new(None);
    fs::remove_file(copy.folder.path().join(SILU)).unwrap();
    copy.is_caught(&["silu.bf16.compute_50: its PTX is missing"]);
    let copy = Copy::new(None);
    fs::write(copy.folder.path().join(PTX).join(ARCHIVE), [0; 9]).unwrap();
    copy.is_caught(&["kernels.bin: does not hold the files beside it"]);
}

#[test]
fn an_isa_that_is_too_new_is_caught() {
    let copy = Copy::new(None);
    copy.edit(SILU, ".version 8.0", ".version 8.8").cover_up();
    copy.is_caught(&["silu.bf16.compute_50: ISA 8.8 is newer than 8.0"]);
    let copy = Copy::new(None);
    copy.edit(SILU, ".target sm_50", ".target sm_90").cover_up();
    copy.is_caught(&["silu.bf16.compute_50: `.target` is not sm_50"]);
}

#[test]
fn what_nothing_declares_is_caught() {
    let copy = Copy::new(None);
    fs::remove_file(copy.folder.path().join(RUST).join("silu.rs")).unwrap();
    copy.is_caught(&["silu.cu: no `kernel!` declares it"]);
    let copy = Copy::new(None);
    fs::remove_file(copy.folder.path().join("kernels/silu.cu")).unwrap();
    copy.is_caught(&["kernels/silu.cu: "]);
    let copy = Copy::new(None);
    copy.edit(&format!("{RUST}/silu.rs"), "types = \"f32 f16 bf16\"", "types = \"f32\"");
    copy.is_caught(&[
        "silu.bf16.compute_50: no kernel declares it",
        "silu.f16.compute_50.ptx: no kernel declares it",
    ]);
    Copy::new(None)
        .edit("kernels/silu.cu", "// needs", "// asks")
        .is_caught(&["the header lacks `// needs`"]);
}

#[test]
#[ignore = "needs the pinned compiler, which is installed on first use"]
fn a_fresh_compilation_catches_what_was_covered_up() {
    let copy = Copy::new(Some("add"));
    generate::build(&copy.project).unwrap();
    let read = |file: &str| fs::read(copy.folder.path().join(PTX).join(file)).unwrap();
    let first = (read(ARCHIVE), read(MANIFEST));
    generate::build(&copy.project).unwrap();
    assert_eq!(first, (read(ARCHIVE), read(MANIFEST)));
    check::online(&copy.project).unwrap();

    copy.edit("crates/backend-cuda/ptx/add.f32.compute_50.ptx", "add.f32", "mul.f32").cover_up();
    check::offline(&copy.project).unwrap();
    let problem = check::online(&copy.project).unwrap_err();
    assert!(problem.contains("add.f32.compute_50.ptx: a fresh compilation gives other bytes"), "{problem}");

    copy.edit("kernels/add.cu", "f32 a[8]", "f33 a[8]");
    let problem = generate::build(&copy.project).unwrap_err();
    assert!(problem.contains("add.bf16.compute_50") && problem.contains("f33"), "{problem}");
}

#[test]
#[ignore = "needs the pinned compiler, which is installed on first use"]
fn spills_beyond_the_manifest_are_caught() {
    let copy = Copy::new(Some("attention"));
    copy.edit("kernels/attention.cu", "__launch_bounds__(256)", "__launch_bounds__(1024)");
    copy.edit(&format!("{RUST}/attention.rs"), "block = 256", "block = 1024");
    generate::build(&copy.project).unwrap();
    let list = copy.folder.path().join(PTX).join(MANIFEST);
    let mut listed = manifest::parse(&fs::read_to_string(&list).unwrap()).unwrap();
    let resources = listed.values_mut().flat_map(|entry| &mut entry.resources);
    let spilling: Vec<_> = resources.filter(|r| r.spills > 0).collect();
    assert!(!spilling.is_empty(), "the kernel does not spill, so that this test proves nothing");
    spilling.into_iter().for_each(|r| r.spills = 0);
    fs::write(&list, manifest::render(&listed)).unwrap();
    let problem = check::online(&copy.project).unwrap_err();
    assert!(problem.contains("MANIFEST allows 0"), "{problem}");
}
