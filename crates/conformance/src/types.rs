//! Mixtures of types.

use backend_api::DType;

/// Types of the operands of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types {
    /// First float operand.
    pub(crate) x: DType,
    /// Second float operand: weights, cache, table.
    pub(crate) w: DType,
    /// Output.
    pub(crate) out: DType,
}

impl Types {
    pub(crate) fn mixed(&self) -> bool {
        self.x != self.w || self.x != self.out
    }

    /// Whether a decoder of some backend begins a layer so: from its residual stream of f32 to f32 or the type of the weights.
    pub(crate) fn is_residual(&self) -> bool {
        self.x == DType::F32 && [DType::F32, self.w].contains(&self.out)
    }

    /// One type throughout, which every backend takes.
    pub(crate) fn uniform() -> impl Iterator<Item = Self> {
        DType::FLOATS.into_iter().map(|d| Self { x: d, w: d, out: d })
    }

    /// Mixtures that a backend may refuse, unless a decoder issues them to it.
    pub(crate) fn mixtures() -> impl Iterator<Item = Self> {
        use DType::{BF16, F16, F32};
        let mixtures = [
            (F32, BF16, F32),
            (F32, F16, F32),
            (BF16, BF16, F32),
            (F16, F16, F32),
            (BF16, F32, BF16),
            (F16, BF16, F16),
            (F32, F32, BF16),
            (F32, F32, F16),
            (F32, BF16, BF16),
            (F32, F16, F16),
        ];
        mixtures.into_iter().map(|(x, w, out)| Self { x, w, out })
    }
}

impl std::fmt::Display for Types {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.x, self.w, self.out)
    }
}
