//! What Rust launches is what CUDA declares and what the embedded PTX holds; needs neither compiler nor GPU.

use std::path::{Path, PathBuf};

use backend_api::DType;
use backend_cuda::kernels::{archive, signatures};
use backend_cuda::launch::{OWN_SHARED, Signature};
use sha2::Digest;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text on one line, without the blocks of a multiprocessor that `__launch_bounds__` may ask for.
fn declarations(cu: &str) -> String {
    let text = squeezed(cu);
    let parts = text.split_once("__launch_bounds__(").and_then(|(before, rest)| {
        let (bounds, after) = rest.split_once(')')?;
        let (block, _) = bounds.split_once(", ")?;
        Some(format!("{before}__launch_bounds__({block}){after}"))
    });
    parts.unwrap_or(text)
}

#[test]
fn blocks_of_a_multiprocessor_are_no_part_of_a_declaration() {
    assert_eq!(declarations("__launch_bounds__(256,\n 4)\nadd(u64 n)"), "__launch_bounds__(256) add(u64 n)");
    assert_eq!(
        declarations("__launch_bounds__(256) add(f32 a, f32 b)"),
        "__launch_bounds__(256) add(f32 a, f32 b)"
    );
}

/// `KERNEL.TYPES.TARGET` of every variant that is declared.
fn variants(signature: &Signature) -> Vec<String> {
    let of_target = |target: &'static str| {
        signature.types.split(' ').map(move |types| format!("{}.{types}.{target}", signature.name))
    };
    signature.targets.split(' ').flat_map(of_target).collect()
}

#[test]
fn cuda_declares_what_rust_launches() {
    for s in signatures() {
        let params: Vec<_> = s.params.iter().map(|(name, c, _)| format!("{c} {name}")).collect();
        let want = format!("__launch_bounds__({}) {}({}) {{", s.block, s.name, params.join(", "));
        let want = format!("extern \"C\" __global__ void {want}");
        let embedded = archive::source(s.name).unwrap();
        assert!(
            declarations(&embedded).contains(&want),
            "the embedded source of {} must declare\n{want}",
            s.name
        );
        // Absent where the package is built without the workspace.
        if let Ok(cu) = std::fs::read_to_string(here().join(format!("../../kernels/{}.cu", s.name))) {
            assert!(declarations(&cu).contains(&want), "kernels/{}.cu must declare\n{want}", s.name);
        }
    }
}

#[test]
fn ptx_declares_what_rust_launches() {
    for s in signatures() {
        let params = s.params.iter().enumerate();
        let param = |(i, (.., ptx)): (usize, &(&str, String, &str))| {
            let (of, length) = ptx.find('[').map_or((*ptx, ""), |at| ptx.split_at(at));
            format!(".param {of} {}_param_{i}{length}", s.name)
        };
        let params: Vec<_> = params.map(param).collect();
        let want = format!(".visible .entry {}( {} ) .maxntid {}, 1, 1", s.name, params.join(", "), s.block);
        for variant in variants(&s) {
            let ptx = archive::text(&format!("{variant}.ptx")).unwrap();
            assert!(squeezed(&ptx).contains(&want), "{variant} must declare\n{want}");
        }
    }
}

#[test]
fn every_variant_unpacks_to_the_file_that_the_manifest_names() {
    let manifest = std::fs::read_to_string(here().join("ptx/MANIFEST")).unwrap();
    let mut listed = Vec::new();
    for line in manifest.lines() {
        if let [name, "inputs", _, "ptx", hash] = line.split(' ').collect::<Vec<_>>()[..] {
            let ptx = archive::text(&format!("{name}.ptx")).unwrap();
            let got: String = sha2::Sha256::digest(&ptx).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(got, hash, "{name}");
            listed.push(name.to_owned());
        }
    }
    let mut declared: Vec<_> = signatures().iter().flat_map(variants).collect();
    declared.sort();
    assert_eq!(listed, declared);
    let embedded = archive::names().filter(|name| name.ends_with(".ptx")).count();
    assert_eq!(embedded, declared.len());
}

/// What a launch gives a block and what its kernel has of its own share the card's limit.
#[test]
fn kernels_that_are_given_shared_memory_have_little_of_their_own() {
    let manifest = std::fs::read_to_string(here().join("ptx/MANIFEST")).unwrap();
    let mut given = false;
    let mut seen = 0;
    for line in manifest.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, "inputs", ..] => {
                given = signatures().iter().any(|s| s.shared > 0 && name.split('.').next() == Some(s.name));
            }
            [architecture, "registers", _, "shared", own, ..] if given => {
                assert!(own.parse::<u32>().unwrap() <= OWN_SHARED, "{line}");
                seen += usize::from(architecture == "sm_90");
            }
            _ => {}
        }
    }
    assert!(seen > 10, "{seen}");
}

/// A kernel for tensor cores is named after the one that does the same everywhere.
fn twin(name: &str) -> &str {
    ["_prefill_mma", "_prefill_wgmma", "_mma", "_wgmma"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name)
}

#[test]
fn every_kernel_has_a_portable_variant_for_each_pair_of_types_it_names() {
    for s in signatures() {
        for types in s.types.split(' ') {
            let (scalar, weight) = types.split_once('-').unwrap_or((types, types));
            let dtype = |name: &str| name.parse::<DType>().unwrap();
            let ptx = archive::ptx(twin(s.name), dtype(scalar), dtype(weight), archive::Target::of((5, 0)))
                .unwrap();
            assert!(ptx.contains(&format!(".entry {}(", twin(s.name))), "{} {types}", s.name);
        }
    }
}

/// What is compiled for compute capability 9.0 may be launched to overlap, so it must wait itself.
#[test]
fn variants_for_overlap_wait_for_their_predecessor() {
    for s in signatures().iter().filter(|s| s.targets.split(' ').any(|t| t == "compute_90")) {
        for types in s.types.split(' ') {
            let ptx = archive::text(&format!("{}.{types}.compute_90.ptx", s.name)).unwrap();
            assert!(ptx.contains("griddepcontrol.wait"), "{} {types}", s.name);
        }
    }
}
