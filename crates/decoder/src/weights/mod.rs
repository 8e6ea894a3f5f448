//! Weights as they are stored: safetensors files of a Hugging Face folder, or one such file in memory.
//!
//! Opening reads headers only. Tensors are read piece by piece, from any thread, straight into the caller's buffer and
//! in the element type that the caller wants; nothing is mapped and nothing is kept. Every number that comes from a file is
//! checked against the length of the file before it is used.

mod convert;
mod folder;
mod header;
mod index;
mod source;
#[cfg(test)]
mod tests;
mod unique;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::path::{Path, PathBuf};

use backend_api::{DType, Error, Result};
use safetensors::Dtype;

use source::Source;

/// Tensors by name, in one file or spread over several.
pub(crate) struct Weights {
    /// The folder or file that errors about a missing tensor name.
    root: PathBuf,
    files: Vec<Source>,
    tensors: BTreeMap<String, Entry>,
}

/// Where a tensor lies.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    start: u64,
    bytes: u64,
}

/// What the header says about a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo<'a> {
    /// Rows first, as stored.
    pub(crate) shape: &'a [usize],
    /// Type of the stored elements.
    pub(crate) dtype: DType,
}

impl Weights {
    /// Opens `model.safetensors`, or else the files that `model.safetensors.index.json` lists, and reads their headers.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder or a file cannot be read, [`Error::Unsupported`] if the folder holds weights in another format
    /// only, [`Error::Format`] if a file is missing, truncated or not what its header says.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        match folder::find(folder)? {
            folder::Found::Single(path) => {
                let mut weights = Self::empty(path.clone());
                weights.add(Source::open(&path)?)?;
                Ok(weights)
            }
            folder::Found::Index(path) => Self::open_sharded(folder, &path),
        }
    }

    /// Reads the header of a safetensors file that is in memory; `name` stands for it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] if the bytes are not a complete safetensors file.
    pub(crate) fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let mut weights = Self::empty(name.into());
        weights.add(Source::memory(name, bytes.into()))?;
        Ok(weights)
    }

    fn empty(root: PathBuf) -> Self {
        Self { root, files: Vec::new(), tensors: BTreeMap::new() }
    }

    fn open_sharded(folder: &Path, index_path: &Path) -> Result<Self> {
        let index = index::read(index_path)?;
        let mut weights = Self::empty(index_path.to_path_buf());
        let mut numbers = BTreeMap::new();
        for shard in index.shards() {
            numbers.insert(shard, weights.files.len());
            weights.add(Source::open(&folder.join(shard))?)?;
        }
        for (tensor, shard) in &index.weight_map {
            let found = weights.tensors.get(tensor).map(|entry| entry.file);
            if found.is_none() || found != numbers.get(shard.as_str()).copied() {
                return Err(Error::format(
                    index_path,
                    format!("tensor `{tensor}` should be in `{shard}`, but is not there"),
                ));
            }
        }
        if let Some(total) = index.total_size
            && total != weights.total_bytes()
        {
            tracing::warn!(
                "{}: total_size is {total}, but the tensors take {} bytes",
                index_path.display(),
                weights.total_bytes()
            );
        }
        Ok(weights)
    }

    /// Adds the tensors of one more file.
    fn add(&mut self, source: Source) -> Result<()> {
        let file = self.files.len();
        for tensor in header::read(&source)? {
            let entry = Entry {
                file,
                dtype: tensor.dtype,
                shape: tensor.shape,
                start: tensor.start,
                bytes: tensor.bytes,
            };
            match self.tensors.entry(tensor.name) {
                btree_map::Entry::Vacant(slot) => drop(slot.insert(entry)),
                btree_map::Entry::Occupied(slot) => {
                    let other =
                        self.files.get(slot.get().file).map_or(Path::new("another file"), Source::path);
                    let reason = format!("tensor `{}` is also in {}", slot.key(), other.display());
                    return Err(Error::format(source.path(), reason));
                }
            }
        }
        self.files.push(source);
        Ok(())
    }

    /// Names in alphabetical order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors as stored.
    pub(crate) fn total_bytes(&self) -> u64 {
        // Each term lies within a file that exists, so that only an absurd number of files could reach the limit.
        self.tensors.values().fold(0, |sum: u64, entry| sum.saturating_add(entry.bytes))
    }

    /// Shape and type of a tensor; `None` if there is none of that name, or none that can be read ([`Self::require`] says
    /// which).
    pub(crate) fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        let entry = self.tensors.get(name)?;
        Some(TensorInfo { shape: &entry.shape, dtype: self.dtype_of(name, entry).ok()? })
    }

    /// The tensor `name`, which must have the shape `shape`.
    ///
    /// # Errors
    /// [`Error::Format`] if it is missing or has another shape, [`Error::Unsupported`] if it is stored in a type that is not
    /// f32, f16 or bf16.
    pub(crate) fn require(&self, name: &str, shape: &[usize]) -> Result<TensorInfo<'_>> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(Error::Format {
                path: self.file(entry)?.path().to_path_buf(),
                offset: Some(entry.start),
                reason: format!(
                    "tensor `{name}` has shape {:?}, but the model's config asks for {shape:?}",
                    entry.shape
                ),
            });
        }
        Ok(TensorInfo { shape: &entry.shape, dtype: self.dtype_of(name, entry)? })
    }

    /// Fills `out` with the bytes from `offset` on that the tensor `name` would have if its elements were of `dtype`, little-endian
    /// as in the file.
    ///
    /// Conversions round to nearest, ties to even. At most 1 MiB is allocated for a conversion, nothing otherwise. May be
    /// called from several threads at once.
    ///
    /// # Errors
    /// [`Error::Argument`] if the range is outside the tensor or cuts an element, or if `dtype` is no float type;
    /// [`Error::Unsupported`] as for [`Self::require`]; [`Error::Format`] if there is no such tensor or the file has shrunk; [`Error::Io`].
    pub(crate) fn read(&self, name: &str, dtype: DType, offset: usize, out: &mut [u8]) -> Result<()> {
        let entry = self.entry(name)?;
        let stored = self.dtype_of(name, entry)?;
        let first = self.first_element(name, entry, dtype, offset, out.len())?;
        let file = self.file(entry)?;
        // The element lies within the tensor, and the tensor within the file.
        let in_file = entry.start.saturating_add(first.saturating_mul(stored.block_bytes()) as u64);
        convert::read(file, name, in_file, stored, dtype, out)
    }

    /// Index of the element at byte `offset` of the tensor as `dtype`, if `offset` and the `len` bytes after it hold
    /// whole elements of it.
    fn first_element(
        &self,
        name: &str,
        entry: &Entry,
        dtype: DType,
        offset: usize,
        len: usize,
    ) -> Result<usize> {
        if !dtype.is_float() {
            let reason = format!("weights cannot be read as {dtype}; use f32, f16 or bf16");
            return Err(Error::Argument { name: "dtype", reason });
        }
        let size = dtype.block_bytes();
        let whole = entry.shape.iter().product::<usize>().checked_mul(size);
        let end = offset.checked_add(len);
        let inside = matches!((end, whole), (Some(end), Some(whole)) if end <= whole);
        if !inside || !offset.is_multiple_of(size) || !len.is_multiple_of(size) {
            let reason = format!(
                "{len} bytes from byte {offset} on are not whole elements of tensor `{name}` ({dtype} {:?})",
                entry.shape
            );
            return Err(Error::Argument { name: "offset", reason });
        }
        Ok(offset / size)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| {
            let some: Vec<_> = self.names().take(3).collect();
            let reason =
                format!("tensor `{name}` is missing; there are {}, such as {some:?}", self.tensors.len());
            Error::format(&self.root, reason)
        })
    }

    fn file(&self, entry: &Entry) -> Result<&Source> {
        self.files.get(entry.file).ok_or_else(|| Error::format(&self.root, "a file of the index is not open"))
    }

    fn dtype_of(&self, name: &str, entry: &Entry) -> Result<DType> {
        match entry.dtype {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            other => Err(Error::Unsupported {
                what: format!(
                    "element type {other} of tensor `{name}` in {}",
                    self.file(entry)?.path().display()
                ),
                supported: "F32, F16, BF16".into(),
            }),
        }
    }
}
