//! The header of a safetensors file: eight bytes of length, then JSON.

use std::path::Path;

use backend_api::{Error, Result};
use safetensors::tensor::{Metadata, SafeTensorError, TensorInfo};
use serde::de::{IgnoredAny, MapAccess};

use super::source::Source;
use super::unique::{Unique, ValueOf, json_error};

/// Longest header that is read, the same limit as in other readers of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes of the length that a file begins with.
const LENGTH_BYTES: u64 = 8;
/// What a file begins with that Git LFS has not replaced by the weights.
const POINTER: &[u8] = b"version https://git-lfs";
/// The one key of the header that is not a tensor.
const METADATA_KEY: &str = "__metadata__";

/// A tensor of which a header tells.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: safetensors::Dtype,
    pub(super) shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

/// A value of the header: a tensor, or the free text of [`METADATA_KEY`], which nothing here needs.
struct Value(Option<TensorInfo>);

impl<'de> ValueOf<'de> for Value {
    fn read<A: MapAccess<'de>>(key: &str, access: &mut A) -> Result<Self, A::Error> {
        if key == METADATA_KEY {
            access.next_value::<IgnoredAny>().map(|_| Self(None))
        } else {
            access.next_value().map(|info| Self(Some(info)))
        }
    }
}

/// Reads and checks the header: the tensors fill the file from the header to its last byte without hole or overlap.
pub(super) fn read(source: &Source) -> Result<Vec<Tensor>> {
    let path = source.path();
    let json = read_json(source)?;
    let data_start = LENGTH_BYTES.saturating_add(json.len() as u64);
    let Unique(values) = serde_json::from_slice::<Unique<Value>>(&json)
        .map_err(|e| json_error(path, LENGTH_BYTES, &json, &e))?;
    let mut infos: Vec<_> =
        values.into_iter().filter_map(|(name, value)| value.0.map(|info| (name, info))).collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let metadata =
        Metadata::new(None, infos.clone()).map_err(|e| layout_error(path, data_start, &infos, &e))?;

    let described = data_start.checked_add(metadata.data_len() as u64);
    if described != Some(source.len()) {
        return Err(length_error(path, source.len(), data_start, metadata.data_len()));
    }
    let place = |(name, info): (String, TensorInfo)| Tensor {
        name,
        dtype: info.dtype,
        shape: info.shape,
        // Both lie below the length of the file, which the last tensor ends at.
        start: data_start.saturating_add(info.data_offsets.0 as u64),
        bytes: info.data_offsets.1.saturating_sub(info.data_offsets.0) as u64,
    };
    Ok(infos.into_iter().map(place).collect())
}

/// The JSON text, whose length is checked before memory for it is allocated.
fn read_json(source: &Source) -> Result<Vec<u8>> {
    let fail = |offset, reason| Err(Error::Format { path: source.path().to_path_buf(), offset, reason });
    let Some(after_length) = source.len().checked_sub(LENGTH_BYTES) else {
        let len = source.len();
        return fail(Some(len), format!("only {len} bytes: too short for a safetensors file"));
    };
    let mut length = [0; LENGTH_BYTES as usize];
    source.read_at("the length of the header", 0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES && is_pointer(source) {
        let reason = "a pointer of Git LFS instead of the weights; run `git lfs pull` in its folder";
        return fail(None, reason.into());
    }
    if length > MAX_HEADER_BYTES {
        return fail(
            Some(0),
            format!(
                "a header of {length} bytes is announced, at most {MAX_HEADER_BYTES} are read; this is no safetensors file"
            ),
        );
    }
    if length > after_length {
        return fail(
            Some(0),
            format!(
                "a header of {length} bytes is announced, but only {after_length} bytes follow; the file is truncated, download it again"
            ),
        );
    }
    let mut json = vec![0; length as usize];
    source.read_at("the header", LENGTH_BYTES, &mut json)?;
    Ok(json)
}

fn is_pointer(source: &Source) -> bool {
    let mut start = [0; POINTER.len()];
    source.read_at("a pointer of Git LFS", 0, &mut start).is_ok() && start == *POINTER
}

fn length_error(path: &Path, len: u64, data_start: u64, data_len: usize) -> Error {
    let stored = len.saturating_sub(data_start);
    let (offset, verdict) = if stored < data_len as u64 {
        (len, "the file is truncated, download it again")
    } else {
        (data_start.saturating_add(data_len as u64), "bytes are left over")
    };
    let reason =
        format!("the tensors take {data_len} bytes, but {stored} bytes follow the header: {verdict}");
    Error::Format { path: path.to_path_buf(), offset: Some(offset), reason }
}

/// Says which of `tensors`, sorted by offset, made the check fail, and where its data should be.
fn layout_error(
    path: &Path,
    data_start: u64,
    tensors: &[(String, TensorInfo)],
    error: &SafeTensorError,
) -> Error {
    let culprit = match error {
        SafeTensorError::InvalidOffset(name) => tensors.iter().find(|(n, _)| n == name),
        _ => tensors.iter().find(|(_, info)| !agrees_with_itself(info)),
    };
    let Some((name, info)) = culprit else {
        return Error::format(path, error.to_string());
    };
    let (start, end) = info.data_offsets;
    let reason = if matches!(error, SafeTensorError::InvalidOffset(_)) {
        format!(
            "tensor `{name}` takes bytes {start}..{end} of the data, which leaves a hole, overlaps another or is reversed"
        )
    } else {
        format!(
            "tensor `{name}` is {} {:?}, which is not what its bytes {start}..{end} hold",
            info.dtype, info.shape
        )
    };
    Error::Format { path: path.to_path_buf(), offset: Some(data_start.saturating_add(start as u64)), reason }
}

/// Whether shape and type give the number of bytes that the offsets enclose.
fn agrees_with_itself(info: &TensorInfo) -> bool {
    let (start, end) = info.data_offsets;
    let alone = TensorInfo { data_offsets: (0, end.saturating_sub(start)), ..info.clone() };
    Metadata::new(None, vec![(String::new(), alone)]).is_ok()
}
