//! Golden files, whole and spoiled.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::run::{Ended, golden, tiny_arg, torchless};

fn verify(file: &str, dtype: &str) -> Ended {
    verify_with(file, &["--dtype", dtype])
}

fn verify_with(file: &str, more: &[&str]) -> Ended {
    let model = tiny_arg();
    let args = ["verify", "--device", "cpu", "--model", &model, "--golden", file];
    torchless(args.iter().chain(more))
}

#[test]
fn golden_files_pass_in_every_type() {
    for i in 0..4 {
        for dtype in ["f32", "f16", "bf16", "auto"] {
            let text = verify(&golden(i), dtype).ok();
            assert!(text.ends_with("\nok\n"), "{text}");
            for part in ["one batch", "token by token", "NMSE", "largest error", "top-1"] {
                assert!(text.contains(part), "{text}");
            }
            if dtype == "f32" {
                assert!(text.contains("all 64 ids as expected"), "{text}");
            }
        }
    }
}

#[cfg(feature = "builtin-model")]
#[test]
fn the_built_in_model_is_the_default() {
    assert!(torchless(["verify", "--golden", &golden(0)]).ok().contains("built in"));
}

/// Type, shape and bytes of each tensor of a file.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A golden file that was changed.
struct Spoiled {
    _folder: TempDir,
    path: PathBuf,
}

impl Spoiled {
    fn new(change: impl FnOnce(&mut Tensors)) -> Self {
        let bytes = fs::read(golden(0)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let owned = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        let mut tensors: Tensors =
            tensors.iter().map(|(name, view)| (name.to_owned(), owned(view))).collect();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("golden.safetensors");
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        Self { _folder: folder, path }
    }

    fn verify(&self, dtype: &str) -> Ended {
        verify(self.path.to_str().unwrap(), dtype)
    }
}

/// Replaces the whole numbers of a tensor.
fn set_ids(tensors: &mut Tensors, name: &str, change: impl FnOnce(&mut Vec<i64>)) {
    let (dtype, shape, data) = tensors.get_mut(name).unwrap();
    assert_eq!(*dtype, Dtype::I64);
    let mut ids: Vec<i64> = data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    change(&mut ids);
    *shape = vec![ids.len()];
    *data = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
}

fn set_logit(tensors: &mut Tensors, i: usize, value: f32) {
    let (dtype, _, data) = tensors.get_mut("logits").unwrap();
    assert_eq!(*dtype, Dtype::F32);
    data[4 * i..4 * i + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn other_number_types_are_read_too() {
    let file = Spoiled::new(|tensors| {
        for name in ["input_ids", "greedy", "positions"] {
            let (dtype, _, data) = tensors.get_mut(name).unwrap();
            *dtype = if name == "positions" { Dtype::U32 } else { Dtype::I32 };
            *data = data.as_chunks::<8>().0.iter().flat_map(|b| b[..4].to_vec()).collect();
        }
        let (dtype, _, data) = tensors.get_mut("logits").unwrap();
        *dtype = Dtype::F64;
        *data = data
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|b| f64::from(f32::from_le_bytes(*b)).to_le_bytes())
            .collect();
    });
    assert!(file.verify("f32").ok().ends_with("\nok\n"));
}

#[test]
fn greedy_ids_may_be_absent() {
    let file = Spoiled::new(|tensors| {
        tensors.remove("greedy");
        tensors.remove("greedy_prompt_len");
    });
    let text = file.verify("f32").ok();
    assert!(!text.contains("greedy") && text.ends_with("\nok\n"), "{text}");
}

#[test]
fn wrong_logits_fail_in_every_type() {
    let file = Spoiled::new(|tensors| set_logit(tensors, 5000, 60.0));
    for dtype in ["f32", "f16", "bf16"] {
        let ended = file.verify(dtype);
        ended.fails(1, &["beyond the tolerance", dtype]);
        assert!(ended.stdout.ends_with("\nFAILED\n"), "{ended:?}");
    }
}

#[test]
fn each_way_of_running_is_compared_with_the_tolerance_of_its_type() {
    // Relative to the sum of all squares this is about 1e-8: too much for f32 only.
    let bytes = fs::read(golden(0)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    let logits: Vec<f32> = logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let squares: f64 = logits.iter().map(|v| f64::from(v * v)).sum();
    let off = (squares * 1e-8).sqrt() as f32;
    let file = Spoiled::new(|tensors| set_logit(tensors, 77, logits[77] + off));
    file.verify("f32").fails(1, &["f32"]);
    file.verify("f16").ok();
    file.verify("bf16").ok();
    let path = file.path.to_str().unwrap();
    verify_with(path, &["--dtype", "f32", "--prefill-chunk", "2"]).fails(1, &["tolerance of f32"]);
    for (dtype, cache, tolerance) in [("f32", "f16", "1e-6"), ("bf16", "f32", "2e-5")] {
        let text = verify_with(path, &["--dtype", dtype, "--kv-dtype", cache]).ok();
        let said = text.contains(&format!("{dtype}, KV cache in {cache}, ")) && text.contains(tolerance);
        assert!(said, "{text}");
    }
}

#[test]
fn another_greedy_id_is_shown_and_fails_in_f32_only() {
    let file = Spoiled::new(|tensors| set_ids(tensors, "greedy", |ids| ids[20] = (ids[20] + 1) % 1024));
    let ended = file.verify("f32");
    ended.fails(1, &["beyond the tolerance"]);
    assert!(ended.stdout.contains("differs from position 20 on"), "{ended:?}");
    assert!(file.verify("bf16").ok().contains("differs from position 20 on"));
}

#[test]
fn spoiled_files_are_errors() {
    let fails = |parts: &[&str], change: &dyn Fn(&mut Tensors)| {
        let ended = Spoiled::new(change).verify("f32");
        ended.fails(1, &[&["golden.safetensors"], parts].concat());
    };
    fails(&["`input_ids`", "token id 1024", "vocabulary of 1024"], &|t| {
        set_ids(t, "input_ids", |ids| ids[3] = 1024)
    });
    fails(&["`input_ids`", "token id -1"], &|t| set_ids(t, "input_ids", |ids| ids[0] = -1));
    fails(&["`greedy`", "token id 5000"], &|t| set_ids(t, "greedy", |ids| ids[60] = 5000));
    fails(&["`input_ids`", "empty"], &|t| set_ids(t, "input_ids", Vec::clear));
    fails(&["`positions`", "11"], &|t| set_ids(t, "positions", |p| p[0] = 11));
    fails(&["`positions`", "empty"], &|t| set_ids(t, "positions", Vec::clear));
    fails(&["`greedy_prompt_len`"], &|t| set_ids(t, "greedy_prompt_len", |n| n[0] = 0));
    fails(&["`greedy_prompt_len`"], &|t| set_ids(t, "greedy_prompt_len", |n| n[0] = 75));
    fails(&["`greedy_prompt_len`"], &|t| drop(t.remove("greedy_prompt_len")));
    fails(&["`logits`", "shape"], &|t| set_ids(t, "positions", |p| p.truncate(10)));
    fails(&["`logits`", "finite"], &|t| set_logit(t, 0, f32::NAN));
    fails(&["context of 2000", "1024"], &|t| set_ids(t, "greedy", |ids| ids.resize(2000, 5)));
    for name in ["input_ids", "positions", "logits"] {
        fails(&[name, "incomplete"], &|t| drop(t.remove(name)));
    }
    fails(&["`input_ids`", "F32"], &|t| {
        let logits = t["logits"].clone();
        t.insert("input_ids".into(), (logits.0, vec![1024 * 11], logits.2));
    });
}

#[test]
fn files_that_are_no_golden_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden.safetensors");
    let file = path.to_str().unwrap();
    verify(file, "f32").fails(1, &[file]);
    verify(folder.path().to_str().unwrap(), "f32").fails(1, &["is not a file"]);
    let whole = fs::read(golden(0)).unwrap();
    for len in [0, 8, 300, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        verify(file, "f32").fails(1, &[file, "safetensors"]);
    }
}
