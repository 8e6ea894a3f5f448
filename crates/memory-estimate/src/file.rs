use crate::{EstimateError, ModelShape};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest `config.json` that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Largest safetensors header that is read, in bytes; the format's own limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the length that precedes a safetensors header.
const LENGTH_BYTES: u64 = 8;

impl ModelShape {
    /// Reads the shape from `config.json` in a Hugging Face model folder.
    ///
    /// # Errors
    /// [`EstimateError::Io`] when it cannot be read, [`EstimateError::File`] when it exceeds
    /// [`MAX_CONFIG_BYTES`], and as [`ModelShape::from_config_json`].
    pub fn from_folder(folder: &Path) -> Result<Self, EstimateError> {
        let path = folder.join("config.json");
        let (file, _) = open(&path)?;
        let json = read_at_most(file, MAX_CONFIG_BYTES + 1).map_err(|source| io_error(&path, source))?;
        if json.len() as u64 > MAX_CONFIG_BYTES {
            return Err(refused(
                &path,
                format!("is larger than {MAX_CONFIG_BYTES} bytes, so not a config.json"),
            ));
        }
        Self::from_config_json(json)
    }

    /// Infers the shape from the header of a safetensors file that holds a whole model; see
    /// [`ModelShape::from_stored_tensors`] for what a header cannot tell.
    ///
    /// # Errors
    /// As [`read_safetensors_header`] and [`ModelShape::from_safetensors_header`].
    pub fn from_safetensors_file(path: &Path, head_dim: usize) -> Result<Self, EstimateError> {
        Self::from_safetensors_header(&read_safetensors_header(path)?, head_dim)
    }
}

/// Reads the JSON header of a safetensors file, and none of its data.
///
/// # Errors
/// [`EstimateError::Io`] when the file cannot be read; [`EstimateError::File`] when its first 8 bytes
/// announce a header longer than [`MAX_HEADER_BYTES`] or than the file.
pub fn read_safetensors_header(path: &Path) -> Result<Vec<u8>, EstimateError> {
    let (mut file, size) = open(path)?;
    let Some(available) = size.checked_sub(LENGTH_BYTES) else {
        return Err(refused(path, format!("has {size} bytes, too few for a safetensors file")));
    };
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(|source| io_error(path, source))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        let problem =
            format!("announces a header of {length} bytes, more than the format's {MAX_HEADER_BYTES}");
        return Err(refused(path, problem));
    }
    if length > available {
        let problem =
            format!("announces a header of {length} bytes, but {available} follow; it is cut short");
        return Err(refused(path, problem));
    }
    let header = read_at_most(file, length).map_err(|source| io_error(path, source))?;
    if header.len() as u64 != length {
        return Err(refused(path, format!("ended after {} of {length} header bytes", header.len())));
    }
    Ok(header)
}

/// Opens a regular file and says how long it is; a pipe or a device could block or never end.
fn open(path: &Path) -> Result<(File, u64), EstimateError> {
    let metadata = std::fs::metadata(path).map_err(|source| io_error(path, source))?;
    if !metadata.is_file() {
        return Err(refused(path, "is not a file".to_owned()));
    }
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    Ok((file, metadata.len()))
}

fn read_at_most(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn io_error(path: &Path, source: io::Error) -> EstimateError {
    EstimateError::Io { path: path.to_owned(), source }
}

fn refused(path: &Path, problem: String) -> EstimateError {
    EstimateError::File { path: path.to_owned(), problem }
}
