//! Positioned reads of a file or of bytes in memory.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use backend_api::{Error, Result};

/// Something with a length that can be read at any position, by several threads at once.
pub(super) struct Source {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

enum Bytes {
    File(File),
    Memory(Cow<'static, [u8]>),
}

impl Source {
    /// Opens a regular file, following symbolic links: a snapshot of the Hugging Face cache consists of them.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Asked before opening: opening a FIFO waits for a writer.
        regular_file_len(path, &path.metadata().map_err(Error::io(path))?)?;
        let file = File::open(path).map_err(Error::io(path))?;
        let len = regular_file_len(path, &file.metadata().map_err(Error::io(path))?)?;
        Ok(Self { path: path.to_path_buf(), len, bytes: Bytes::File(file) })
    }

    /// Bytes in memory that errors call `name`.
    pub(super) fn memory(name: &str, bytes: Cow<'static, [u8]>) -> Self {
        Self { path: name.into(), len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// Name of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` with the bytes from `offset` on; `what` names them in errors.
    pub(super) fn read_at(&self, what: impl std::fmt::Display, offset: u64, out: &mut [u8]) -> Result<()> {
        let done = match &self.bytes {
            Bytes::File(file) => read_exact_at(file, out, offset),
            Bytes::Memory(bytes) => copy_at(bytes, out, offset),
        };
        done.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Format {
                path: self.path.clone(),
                offset: Some(offset),
                reason: format!("the file ends within {what}; it is truncated or changed while it was read"),
            },
            kind => Error::Io {
                path: self.path.clone(),
                source: io::Error::new(kind, format!("reading {what}: {error}")),
            },
        })
    }
}

/// The length of what `metadata` describes, if it is a regular file.
pub(super) fn regular_file_len(path: &Path, metadata: &std::fs::Metadata) -> Result<u64> {
    if metadata.is_file() {
        Ok(metadata.len())
    } else {
        Err(Error::format(
            path,
            if metadata.is_dir() { "is a folder, not a file" } else { "is not a regular file" },
        ))
    }
}

fn copy_at(bytes: &[u8], out: &mut [u8], offset: u64) -> io::Result<()> {
    let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(out.len())?));
    let piece = range.and_then(|range| bytes.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
    out.copy_from_slice(piece);
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                out = out.get_mut(n..).unwrap_or_default();
                offset = offset.saturating_add(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no positioned reads; load from bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_bytes_are_not_copied() {
        static BYTES: [u8; 4] = [1, 2, 3, 4];
        let source = Source::memory("static", Cow::from(&BYTES[..]));
        assert!(matches!(&source.bytes, Bytes::Memory(kept) if std::ptr::eq(&**kept, &BYTES[..])));
    }

    #[test]
    fn reads_end_where_the_bytes_end() {
        let source = Source::memory("m", vec![1, 2, 3].into());
        let mut out = [0; 2];
        source.read_at("x", 1, &mut out).unwrap();
        assert_eq!(out, [2, 3]);
        for offset in [2, 3, 4, u64::MAX] {
            let error = source.read_at("tensor `x`", offset, &mut out).err().unwrap();
            assert!(matches!(&error, Error::Format { offset: Some(o), .. } if *o == offset), "{error}");
            assert!(error.to_string().contains("tensor `x`"), "{error}");
        }
    }
}
