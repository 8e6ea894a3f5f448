//! Weights spread over several files by an index.

use super::*;

const INDEX: &str = "model.safetensors.index.json";

fn shard(name: &str, value: f32) -> Vec<u8> {
    file(&header(&[entry(name, "F32", "1", 0, 4)]), &value.to_le_bytes())
}

/// A folder with `a` in one.safetensors, `b` in two.safetensors and this index.
fn with_index(index: &str) -> TempDir {
    folder(&[
        (INDEX, index.as_bytes()),
        ("one.safetensors", &shard("a", 1.0)),
        ("two.safetensors", &shard("b", 2.0)),
    ])
}

fn map(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(t, f)| format!("{t:?}:{f:?}")).collect();
    format!("{{\"weight_map\":{{{}}}}}", pairs.join(","))
}

#[test]
fn tensors_are_found_in_their_files() {
    let good = map(&[("a", "one.safetensors"), ("b", "two.safetensors")]);
    let total_lies = good.replacen('{', "{\"metadata\":{\"total_size\":999},", 1);
    let total_is_text = good.replacen('{', "{\"metadata\":{\"total_size\":\"8\"},\"more\":[1],", 1);
    for index in [good, total_lies, total_is_text] {
        let dir = with_index(&index);
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!((floats(&weights, "a", 1), floats(&weights, "b", 1)), (vec![1.0], vec![2.0]));
        assert_eq!(weights.total_bytes(), 8);
        let error = weights.require("b", &[2]).err().unwrap().to_string();
        assert!(error.contains("two.safetensors"), "{error}");
    }
}

#[test]
fn one_file_goes_before_an_index() {
    let dir = with_index("not read");
    fs::write(dir.path().join("model.safetensors"), small()).unwrap();
    check_small(&Weights::open(dir.path()).unwrap());
}

#[test]
fn an_index_that_disagrees_with_its_files_is_refused() {
    let cases = [
        (map(&[("a", "one.safetensors"), ("b", "one.safetensors")]), "`b` should be in `one.safetensors`"),
        (map(&[("a", "two.safetensors"), ("b", "one.safetensors")]), "`a` should be in `two.safetensors`"),
        (map(&[("a", "one.safetensors"), ("c", "two.safetensors")]), "`c` should be in `two.safetensors`"),
        (map(&[("a", "one.safetensors"), ("a", "two.safetensors")]), "duplicate key `a`"),
        (map(&[]), "names no tensor"),
        ("{}".into(), "weight_map"),
        ("[".repeat(10_000), "not the JSON"),
        (format!("{{\"metadata\":{}", "[".repeat(10_000)), "not the JSON"),
        (r#"{"weight_map":{"a":1}}"#.into(), "not the JSON"),
        (String::new(), "not the JSON"),
    ];
    for (index, part) in cases {
        let dir = with_index(&index);
        let error = Weights::open(dir.path()).err().unwrap();
        assert!(matches!(error, Error::Format { .. }) && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let dir = with_index(&map(&[("a", "one.safetensors"), ("b", "two.safetensors")]));
    let both = header(&[entry("b", "F32", "1", 0, 4), entry("a", "F32", "1", 4, 8)]);
    fs::write(dir.path().join("two.safetensors"), file(&both, &[0; 8])).unwrap();
    let (reason, _) = format_error(Weights::open(dir.path()));
    assert!(reason.contains("`a` is also in") && reason.contains("one.safetensors"), "{reason}");
}

#[test]
fn a_missing_or_damaged_file_is_named() {
    let dir = with_index(&map(&[("a", "one.safetensors"), ("c", "three.safetensors")]));
    let error = Weights::open(dir.path()).err().unwrap();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("three.safetensors")), "{error}");

    fs::write(dir.path().join("three.safetensors"), &shard("c", 3.0)[..20]).unwrap();
    let error = Weights::open(dir.path()).err().unwrap();
    assert!(matches!(&error, Error::Format { path, .. } if path.ends_with("three.safetensors")), "{error}");
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused_unopened() {
    let outer = tempfile::tempdir().unwrap();
    // If the name were followed, the file would be there and right.
    fs::write(outer.path().join("x.safetensors"), shard("a", 1.0)).unwrap();
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let absolute = outer.path().join("x.safetensors").display().to_string();
    for name in [
        "../x.safetensors",
        &absolute,
        "a/../../x.safetensors",
        "..\\x.safetensors",
        "..",
        ".",
        "",
        "/dev/zero",
    ] {
        fs::write(inner.join(INDEX), map(&[("a", name)])).unwrap();
        let (reason, _) = format_error(Weights::open(&inner));
        assert!(reason.contains("is not the plain name"), "{name}: {reason}");
    }
    fs::write(inner.join(INDEX), r#"{"weight_map":{"a":"x.safetensors\u0000"}}"#).unwrap();
    assert!(format_error(Weights::open(&inner)).0.contains("is not the plain name"));
    fs::create_dir(inner.join("d.safetensors")).unwrap();
    fs::write(inner.join(INDEX), map(&[("a", "d.safetensors")])).unwrap();
    assert!(format_error(Weights::open(&inner)).0.contains("is a folder"));
}

#[test]
fn an_index_beyond_all_bounds_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let index = fs::File::create(dir.path().join(INDEX)).unwrap();
    index.set_len((64 << 20) + 1).unwrap();
    assert!(format_error(Weights::open(dir.path())).0.contains("an index has at most"));
}
