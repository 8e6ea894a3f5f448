//! The file that `backend-cuda` embeds: every PTX and every flattened source, each compressed by itself.
//!
//! Entry after entry: length of the name (u16), name, length of the text (u32), length of its deflate stream (u32),
//! stream; numbers little-endian.

/// Compression level of deflate: the densest.
const LEVEL: u8 = 10;

/// The archive of `(name, text)` pairs in the given order.
pub fn pack<'t>(entries: impl IntoIterator<Item = (&'t str, &'t str)>) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, text) in entries {
        let stream = miniz_oxide::deflate::compress_to_vec(text.as_bytes(), LEVEL);
        archive.extend((name.len() as u16).to_le_bytes());
        archive.extend(name.as_bytes());
        archive.extend((text.len() as u32).to_le_bytes());
        archive.extend((stream.len() as u32).to_le_bytes());
        archive.extend(stream);
    }
    archive
}
