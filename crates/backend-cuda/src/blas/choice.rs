//! Who computes a product.

use backend_api::DType;

/// A way to compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Own kernel that streams the weights once for a few rows.
    Vector,
    /// Own kernel that computes tiles of the output.
    Tiles,
    /// cuBLASLt.
    Library,
}

/// Rows of `x` up to which the weights are streamed once for all of them.
const FEW: u64 = 8;

/// Who computes `m` rows of `x` of type `scalar` with weights of type `weight`; `library` if there may be one. Weights
/// of another type than `x` stay with the own kernels, which do not round `x`.
pub(crate) fn choose(m: u64, scalar: DType, weight: DType, library: bool) -> By {
    match m {
        0..=FEW => By::Vector,
        _ if library && scalar == weight => By::Library,
        _ => By::Tiles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::{BF16, F16, F32};

    #[test]
    fn few_rows_stay_with_the_kernel_that_streams_the_weights() {
        for (m, library) in [0, 1, 2, 8].into_iter().flat_map(|m| [false, true].map(|l| (m, l))) {
            assert_eq!(choose(m, BF16, BF16, library), By::Vector, "{m}");
        }
    }

    #[test]
    fn many_rows_go_to_the_library_where_there_is_one() {
        for t in [F32, F16, BF16] {
            assert_eq!(choose(9, t, t, true), By::Library);
            assert_eq!(choose(9, t, t, false), By::Tiles);
        }
    }

    #[test]
    fn activations_are_never_rounded_to_the_type_of_the_weights() {
        for t in [F16, BF16] {
            assert_eq!(choose(512, F32, t, true), By::Tiles);
        }
    }
}
