use crate::EstimateError;
use crate::error::quoted;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Element types of the safetensors format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are the names of the format")]
pub enum StoredDtype {
    Bool,
    F4,
    #[serde(rename = "F6_E2M3")]
    F6E2M3,
    #[serde(rename = "F6_E3M2")]
    F6E3M2,
    U8,
    I8,
    #[serde(rename = "F8_E5M2")]
    F8E5M2,
    #[serde(rename = "F8_E4M3")]
    F8E4M3,
    #[serde(rename = "F8_E8M0")]
    F8E8M0,
    #[serde(rename = "F8_E4M3FNUZ")]
    F8E4M3Fnuz,
    #[serde(rename = "F8_E5M2FNUZ")]
    F8E5M2Fnuz,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

impl StoredDtype {
    /// Bits of one element; less than 8 where elements share a byte.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::F4 => 4,
            Self::F6E2M3 | Self::F6E3M2 => 6,
            Self::Bool | Self::U8 | Self::I8 => 8,
            Self::F8E5M2 | Self::F8E4M3 | Self::F8E8M0 | Self::F8E4M3Fnuz | Self::F8E5M2Fnuz => 8,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 16,
            Self::I32 | Self::U32 | Self::F32 => 32,
            Self::C64 | Self::F64 | Self::I64 | Self::U64 => 64,
        }
    }
}

/// One tensor of a safetensors file, as its header describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredTensor {
    /// Name of the tensor.
    pub name: String,
    /// Type of its elements.
    pub dtype: StoredDtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Bytes that it takes in the file.
    pub bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: StoredDtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order, duplicates kept.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Reads the JSON header of a safetensors file: its tensors, by name.
///
/// # Errors
/// [`EstimateError::Json`] for text that is not a header; [`EstimateError::Tensor`] for a name given
/// twice, offsets that disagree with dtype and shape, and data that overlaps or has holes.
pub fn stored_tensors(header: &[u8]) -> Result<Vec<StoredTensor>, EstimateError> {
    let Entries(mut entries) = serde_json::from_slice(header)
        .map_err(|source| EstimateError::Json { document: "safetensors header", source })?;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let bytes = checked_bytes(&name, &entry)?;
        if entry.data_offsets.0 != end {
            let problem = format!("starts at byte {} of the data, expected {end}", entry.data_offsets.0);
            return Err(EstimateError::Tensor { tensor: quoted(&name), problem });
        }
        end = entry.data_offsets.1;
        tensors.push(StoredTensor { name, dtype: entry.dtype, shape: entry.shape, bytes });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for (a, b) in tensors.iter().zip(tensors.iter().skip(1)) {
        if a.name == b.name {
            return Err(EstimateError::Tensor {
                tensor: quoted(&a.name),
                problem: "is given twice".to_owned(),
            });
        }
    }
    Ok(tensors)
}

/// Bytes of all tensors as the file stores them, from its JSON header.
///
/// # Errors
/// As [`stored_tensors`].
pub fn stored_bytes(header: &[u8]) -> Result<u64, EstimateError> {
    let tensors = stored_tensors(header)?;
    tensors.iter().try_fold(0_u64, |sum, tensor| sum.checked_add(tensor.bytes)).ok_or(EstimateError::Overflow)
}

/// Bytes of an entry, which its offsets and its dtype and shape must agree on.
fn checked_bytes(name: &str, entry: &Entry) -> Result<u64, EstimateError> {
    let refuse = |problem| Err(EstimateError::Tensor { tensor: quoted(name), problem });
    let (begin, end) = entry.data_offsets;
    let Some(bytes) = end.checked_sub(begin) else {
        return refuse(format!("ends at byte {end} before it starts at {begin}"));
    };
    let bits = entry.shape.iter().try_fold(entry.dtype.bits(), |bits, &dim| bits.checked_mul(dim));
    let Some(bits) = bits else {
        return refuse("has more than 2^64 bits".to_owned());
    };
    if !bits.is_multiple_of(8) || bits / 8 != bytes {
        return refuse(format!("takes {bytes} bytes, but its dtype and shape make {bits} bits"));
    }
    Ok(bytes)
}
