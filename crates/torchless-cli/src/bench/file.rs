//! Files that are known to be writable before the work whose results they will hold.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file that is open for writing. Until it is written its contents stay as they were; one that was made for nothing is
/// removed again.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    file: Option<File>,
    created: bool,
}

impl OutputFile {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let open = |new| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(new).open(path)
        };
        let opened = match open(true) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => open(false).map(|file| (file, false)),
            made => made.map(|file| (file, true)),
        };
        let (file, created) = opened.map_err(|e| cannot_write(path, &e))?;
        Ok(Self { path: path.to_owned(), file: Some(file), created })
    }

    /// Replaces the file's contents.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(crate) fn write(mut self, text: &str) -> Result<(), Failure> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        self.created = false;
        let mut replace = || {
            // A pipe or a device has no length.
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            file.write_all(text.as_bytes())
        };
        replace().map_err(|e| cannot_write(&self.path, &e))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        self.file = None;
        if self.created {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}; give a file in a folder that exists", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_change_only_when_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        drop(OutputFile::open(&path).unwrap());
        assert!(!path.exists());
        OutputFile::open(&path).unwrap().write("longer text").unwrap();
        drop(OutputFile::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "longer text");
        OutputFile::open(&path).unwrap().write("short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
        assert!(OutputFile::open(folder.path()).is_err());
    }
}
