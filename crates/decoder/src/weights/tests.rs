//! Files that are right, and files that are wrong in every way that has hurt a reader of this format.

mod convert;
mod sharded;

use std::fs;
use std::path::Path;

use backend_api::{DType, Error, bf16};
use tempfile::TempDir;

use super::Weights;

/// A safetensors file of this header and these bytes of data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{start},{end}]}}"#)
}

fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// `a`: f32 [2, 2] of 1, 2, 3, 4; `b`: bf16 [2] of 5, 6.
fn small() -> Vec<u8> {
    let mut data = Vec::new();
    for x in [1.0f32, 2.0, 3.0, 4.0] {
        data.extend_from_slice(&x.to_le_bytes());
    }
    for x in [5.0f32, 6.0] {
        data.extend_from_slice(&bf16::from_f32(x).to_le_bytes());
    }
    file(&header(&[entry("a", "F32", "2,2", 0, 16), entry("b", "BF16", "2", 16, 20)]), &data)
}

fn parse(bytes: Vec<u8>) -> Result<Weights, Error> {
    Weights::from_bytes("m.safetensors", bytes)
}

/// Reason and byte offset of the [`Error::Format`] that `result` must be.
#[track_caller]
fn format_error<T>(result: Result<T, Error>) -> (String, Option<u64>) {
    match result.err() {
        Some(Error::Format { reason, offset, .. }) => (reason, offset),
        other => panic!("a format error was expected, not {other:?}"),
    }
}

#[track_caller]
fn assert_refused(bytes: Vec<u8>, part_of_reason: &str) {
    let (reason, _) = format_error(parse(bytes));
    assert!(reason.contains(part_of_reason), "{reason}");
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn floats(weights: &Weights, name: &str, n: usize) -> Vec<f32> {
    let mut out = vec![0f32; n];
    weights.read(name, DType::F32, 0, bytemuck::cast_slice_mut(&mut out)).unwrap();
    out
}

fn check_small(weights: &Weights) {
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.total_bytes(), 20);
    let a = weights.require("a", &[2, 2]).unwrap();
    assert_eq!((a.shape, a.dtype), (&[2, 2][..], DType::F32));
    assert_eq!(weights.info("b").unwrap().dtype, DType::BF16);
    assert_eq!(weights.info("c"), None);
    assert_eq!(floats(weights, "a", 4), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(floats(weights, "b", 2), [5.0, 6.0]);
    let mut last = [0; 4];
    weights.read("a", DType::BF16, 4, &mut last).unwrap();
    assert_eq!(last, [bf16::from_f32(3.0).to_le_bytes(), bf16::from_f32(4.0).to_le_bytes()].concat()[..]);
    weights.read("a", DType::F32, 16, &mut []).unwrap();
}

#[test]
fn one_file_reads_the_same_from_a_folder_and_from_memory() {
    check_small(&parse(small()).unwrap());
    check_small(&Weights::from_bytes("static", &*small().leak()).unwrap());
    check_small(&Weights::open(folder(&[("model.safetensors", &small())]).path()).unwrap());
}

#[test]
fn a_file_that_ends_early_is_refused_wherever_it_ends() {
    let whole = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for len in 0..whole.len() {
        format_error(parse(whole[..len].to_vec()));
        fs::write(&path, &whole[..len]).unwrap();
        format_error(Weights::open(folder.path()));
    }
    assert_eq!(format_error(parse(whole[..whole.len() - 1].to_vec())).1, Some(whole.len() as u64 - 1));
}

#[test]
fn no_flipped_bit_of_the_header_causes_a_panic_or_a_read_outside() {
    let whole = small();
    let header_len = whole.len() - 20;
    let (mut refused, mut taken) = (0, 0);
    for bit in 0..header_len * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(weights) = parse(bytes) else {
            refused += 1;
            continue;
        };
        taken += 1;
        for name in weights.names() {
            let Some(info) = weights.info(name) else { continue };
            let mut out = vec![0; info.dtype.bytes(info.shape.iter().product()).unwrap()];
            weights.read(name, info.dtype, 0, &mut out).unwrap();
        }
    }
    // A changed letter of a name is as good a file as the other.
    assert!(refused > 500 && taken > 2, "{refused} refused, {taken} taken");
}

#[test]
fn headers_longer_than_the_file_or_the_limit_are_refused_before_memory_is_taken() {
    for len in [1 << 63, u64::MAX - 7, u64::MAX, 100_000_001] {
        let mut bytes = small();
        bytes[..8].copy_from_slice(&u64::to_le_bytes(len));
        let (reason, offset) = format_error(parse(bytes));
        assert!(reason.contains("no safetensors file") && offset == Some(0), "{reason}");
    }
    let mut bytes = small();
    bytes[..8].copy_from_slice(&100_000_000u64.to_le_bytes());
    assert_refused(bytes, "bytes follow; the file is truncated");
    for len in [0, 7] {
        assert_refused(vec![0; len], "too short");
    }
}

#[test]
fn headers_that_are_not_the_json_of_the_format_are_refused() {
    let deep = format!(r#"{{"a":{}}}"#, "[".repeat(10_000));
    let deep_metadata = format!(r#"{{"__metadata__":{}}}"#, "[".repeat(10_000));
    for header in
        ["", "{", "[]", "null", "{}{}", r#"{"a":1}"#, r#"{"a":{"dtype":"F32"}}"#, &deep, &deep_metadata]
    {
        assert_refused(file(header, &[]), "not the JSON");
    }
    let mut bytes = file(r#"{"xx":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, &[0; 4]);
    bytes[10] = 0xff;
    assert_refused(bytes, "not the JSON");
    for (shape, end) in
        [("-1", "4"), ("1.5", "4"), ("1e3", "4"), (r#""1""#, "4"), ("1", "-4"), ("1", "18446744073709551616")]
    {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,{end}]}}}}"#);
        assert_refused(file(&header, &[0; 4]), "not the JSON");
    }
    let (_, offset) = format_error(parse(file("{\n  \"a\": x}", &[])));
    assert_eq!(offset, Some(8 + 9));
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let twice = header(&[entry("a", "F32", "1", 0, 4), entry("a", "F32", "1", 4, 8)]);
    assert_refused(file(&twice, &[0; 8]), "duplicate key `a`");
    let metadata = r#"{"__metadata__":{"x":"y"},"__metadata__":{"x":"z"}}"#;
    assert_refused(file(metadata, &[]), "duplicate key `__metadata__`");
    let field = r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#;
    assert_refused(file(field, &[0; 4]), "duplicate field `dtype`");
}

#[test]
fn tensors_must_fill_the_data_exactly() {
    let two = |a: (u64, u64), b: (u64, u64), data: usize| {
        file(&header(&[entry("a", "F32", "1", a.0, a.1), entry("b", "F32", "1", b.0, b.1)]), &vec![0; data])
    };
    assert!(parse(two((0, 4), (4, 8), 8)).is_ok());
    assert!(parse(two((4, 8), (0, 4), 8)).is_ok(), "the order in the header does not matter");
    assert_refused(two((0, 4), (8, 12), 12), "tensor `b` takes bytes 8..12 of the data, which leaves a hole");
    assert_refused(two((4, 8), (8, 12), 12), "tensor `a` takes bytes 4..8");
    assert_refused(two((0, 4), (2, 6), 6), "tensor `b` takes bytes 2..6");
    assert_refused(two((0, 4), (0, 4), 4), "takes bytes 0..4");
    assert_refused(two((0, 4), (8, 4), 8), "reversed");
    assert_refused(two((0, 4), (4, 9), 9), "tensor `b` is F32 [1]");
    assert_refused(two((0, 4), (4, 8), 7), "truncated");
    assert_refused(two((0, 4), (4, 8), 9), "left over");
    assert_refused(two((0, 4), (4, u64::MAX), 8), "tensor `b` is F32 [1]");
    let same: Vec<_> = (0..10).map(|i| entry(&format!("t{i}"), "F32", "4", 0, 16)).collect();
    assert_refused(file(&header(&same), &[0; 16]), "overlaps");
}

#[test]
fn sizes_that_overflow_are_refused_by_name() {
    for shape in [
        "2,18446744073709551614",
        "2,9223372036854775807",
        "4294967296,4294967296",
        "9223372036854775808,2,0",
    ] {
        assert_refused(file(&header(&[entry("big", "F32", shape, 0, 4)]), &[0; 4]), "tensor `big` is F32");
    }
}

#[test]
fn element_types_matter_only_to_who_asks_for_the_tensor() {
    let mixed = header(&[
        entry("a", "F32", "1", 0, 4),
        entry("ids", "I64", "1", 4, 12),
        entry("q", "F8_E4M3", "3", 12, 15),
    ]);
    let weights = parse(file(&mixed, &[0; 15])).unwrap();
    assert_eq!(floats(&weights, "a", 1), [0.0]);
    for (name, shape, dtype) in [("ids", 1, "I64"), ("q", 3, "F8_E4M3")] {
        assert_eq!(weights.info(name), None);
        let errors =
            [weights.require(name, &[shape]).err(), weights.read(name, DType::F32, 0, &mut [0; 4]).err()];
        for error in errors.map(Option::unwrap) {
            let text = error.to_string();
            assert!(
                matches!(error, Error::Unsupported { .. }) && text.contains(dtype) && text.contains(name),
                "{text}"
            );
        }
    }
    assert_refused(file(&header(&[entry("a", "F4", "3", 0, 2)]), &[0; 2]), "tensor `a` is F4 [3]");
    assert_refused(file(&header(&[entry("a", "F31", "1", 0, 4)]), &[0; 4]), "F31");
}

#[test]
fn empty_tensors_scalars_padding_and_metadata_are_fine() {
    let entries = [
        entry("none", "F16", "3,0", 0, 0),
        entry("none_too", "F16", "0", 0, 0),
        entry("one", "F32", "", 0, 4),
    ];
    let padded = format!("  {{\"__metadata__\":{{\"shape\":\"pt\"}},{}}}   ", entries.join(","));
    let weights = parse(file(&padded, &7.5f32.to_le_bytes())).unwrap();
    assert_eq!(weights.require("none", &[3, 0]).unwrap().dtype, DType::F16);
    assert!(floats(&weights, "none", 0).is_empty());
    assert_eq!(floats(&weights, "one", 1), [7.5]);
    assert_eq!(weights.require("one", &[]).unwrap().shape, [0usize; 0]);
    assert_eq!(parse(file("{}", &[])).unwrap().total_bytes(), 0);
}

#[test]
fn a_hundred_thousand_tensors_are_read_at_once() {
    let entries: Vec<_> =
        (0..100_000).map(|i| entry(&format!("t{i}"), "F16", "1", 2 * i, 2 * i + 2)).collect();
    let weights = parse(file(&header(&entries), &vec![0; 200_000])).unwrap();
    assert_eq!((weights.names().count(), weights.total_bytes()), (100_000, 200_000));
}

#[test]
fn missing_tensors_and_other_shapes_are_named() {
    let weights = parse(small()).unwrap();
    let error = weights.require("c", &[1]).err().unwrap().to_string();
    assert!(
        error.contains("m.safetensors") && error.contains("`c` is missing") && error.contains("\"a\""),
        "{error}"
    );
    let error = weights.require("a", &[4, 1]).err().unwrap().to_string();
    assert!(
        error.contains("m.safetensors") && error.contains("[2, 2]") && error.contains("[4, 1]"),
        "{error}"
    );
    format_error(weights.read("c", DType::F32, 0, &mut [0; 4]));
}

#[test]
fn reads_outside_a_tensor_or_of_cut_elements_are_refused() {
    let weights = parse(small()).unwrap();
    let cases = [
        ("a", DType::F32, 0, 20),
        ("a", DType::F32, 16, 4),
        ("a", DType::F32, 2, 4),
        ("a", DType::F32, 0, 3),
        ("a", DType::F16, 1, 2),
        ("a", DType::F16, 8, 2),
        ("b", DType::F32, 8, 4),
        ("a", DType::F32, usize::MAX - 3, 4),
        ("a", DType::U32, 0, 4),
    ];
    for (name, dtype, offset, len) in cases {
        let error = weights.read(name, dtype, offset, &mut vec![0; len]).err();
        assert!(matches!(error, Some(Error::Argument { .. })), "{name} {dtype} {offset} {len}: {error:?}");
    }
}

#[test]
fn the_folder_and_what_is_not_in_it_are_named() {
    let text = |folder: &Path| Weights::open(folder).err().unwrap().to_string();
    let none = text(Path::new("no-such-folder-anywhere"));
    assert!(none.contains("no-such-folder-anywhere") && none.contains("no such folder"), "{none}");

    let empty = folder(&[("config.json", b"{}")]);
    let missing = text(empty.path());
    assert!(missing.contains("neither model.safetensors nor model.safetensors.index.json"), "{missing}");
    let not_a_folder = text(&empty.path().join("config.json"));
    assert!(not_a_folder.contains("is not a folder"), "{not_a_folder}");

    let consolidated = folder(&[("consolidated.safetensors", b"")]);
    assert!(text(consolidated.path()).contains("found consolidated.safetensors instead"));
    for name in ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model-Q4_K_M.GGUF"] {
        let other = folder(&[(name, b"x"), ("config.json", b"{}")]);
        let error = Weights::open(other.path()).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, Error::Unsupported { .. }), "{text}");
        assert!(text.contains(name) && text.contains("model.safetensors"), "{text}");
    }
}

#[test]
fn folders_in_place_of_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(format_error(Weights::open(dir.path())).0.contains("is a folder"));
}

/// Files that are not plain, and files that change while they are read.
#[cfg(unix)]
mod unix {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_the_hugging_face_cache_are_followed() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("snapshots/1");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir(cache.path().join("blobs")).unwrap();
        fs::write(cache.path().join("blobs/0af3"), small()).unwrap();
        symlink("../../blobs/0af3", snapshot.join("model.safetensors")).unwrap();
        check_small(&Weights::open(&snapshot).unwrap());

        fs::remove_file(cache.path().join("blobs/0af3")).unwrap();
        let error = Weights::open(&snapshot).err().unwrap();
        assert!(
            matches!(&error, Error::Io { .. }) && error.to_string().contains("model.safetensors"),
            "{error}"
        );
    }

    #[test]
    fn devices_and_fifos_are_refused_without_being_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(format_error(Weights::open(dir.path())).0.contains("not a regular file"));
        drop(socket);
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert!(format_error(Weights::open(dir.path())).0.contains("not a regular file"));
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success(), "mkfifo belongs to every POSIX system");
        assert!(format_error(Weights::open(dir.path())).0.contains("not a regular file"));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_and_one_that_is_replaced_is_not() {
        let dir = folder(&[("model.safetensors", &small())]);
        let path = dir.path().join("model.safetensors");
        let weights = Weights::open(dir.path()).unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::write(&path, b"something else").unwrap();
        check_small(&weights);

        let old = fs::OpenOptions::new().write(true).open(dir.path().join("old")).unwrap();
        old.set_len(small().len() as u64 - 1).unwrap();
        assert_eq!(floats(&weights, "a", 4), [1.0, 2.0, 3.0, 4.0]);
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let mut out = vec![0; 2 * dtype.block_bytes()];
            let (reason, _) = format_error(weights.read("b", dtype, 0, &mut out));
            assert!(reason.contains("tensor `b`") && reason.contains("truncated"), "{reason}");
        }
    }
}
