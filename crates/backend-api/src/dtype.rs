//! Element types of tensors.

use std::fmt;

use half::{bf16, f16};

/// How the elements of a tensor are stored.
///
/// Sizes are asked for in blocks, so that a type that packs several elements into one block needs no other
/// interface: a dense type is a block of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// Unsigned 32-bit integer: token ids and positions.
    U32,
}

impl DType {
    /// Every type, in the order in which reports list them.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::U32];

    /// The types that hold weights and activations.
    pub const FLOATS: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Lower-case name, as in `--dtype`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U32 => "u32",
        }
    }

    /// Elements in one block, the smallest unit that can be stored.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::U32 => 1,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Whether the elements are real numbers.
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::U32)
    }

    /// Bytes of `elements` elements; `None` if they do not fill whole blocks or the size overflows.
    pub const fn bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Largest relative error of rounding a real number to this type: 2^-24, 2^-11, 2^-8; 0 for integers.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            Self::F32 => 1.0 / (1u64 << 24) as f64,
            Self::F16 => 1.0 / (1u64 << 11) as f64,
            Self::BF16 => 1.0 / (1u64 << 8) as f64,
            Self::U32 => 0.0,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        Self::ALL.into_iter().find(|d| d.name() == text).ok_or_else(|| crate::Error::Argument {
            name: "dtype",
            reason: format!("`{text}` is none of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// A Rust type that is stored as one [`DType`].
pub trait Element: bytemuck::Pod + Send + Sync + fmt::Debug + PartialEq {
    /// The type of a tensor of these elements.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_list_the_known() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
        }
        assert!("q8".parse::<DType>().unwrap_err().to_string().contains("f32, f16, bf16, u32"));
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(DType::BF16.bytes(3), Some(6));
        assert_eq!(DType::F32.bytes(usize::MAX / 2), None);
    }
}
