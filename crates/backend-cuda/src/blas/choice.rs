//! Who computes a product.

use backend_api::DType;

/// A way to compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Own kernel that streams the weights past one vector.
    Vector,
    /// Own kernel that computes tiles of the output, on tensor cores where they take the product, and else streams the
    /// weights once for all rows.
    Few,
    /// The same, and else computes tiles without tensor cores.
    Tiles,
    /// cuBLASLt.
    Library,
}

/// Rows of `x` up to which the weights are streamed once for all of them.
pub(crate) const FEW: u64 = 8;
/// The same beside f32 weights, where the library is there: a prompt of 4 tokens runs 22 % faster so, one of 8 tokens 31 %
/// slower (Mistral-7B shape, H200).
const FEW_F32: u64 = 4;

/// What decides who computes a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Rows of `x`.
    pub(crate) m: u64,
    /// Whether the kernel for [`By::Vector`] takes it.
    pub(crate) streams: bool,
    /// Types of the operands.
    pub(crate) x: DType,
    pub(crate) w: DType,
    pub(crate) out: DType,
    pub(crate) accumulate: bool,
}

/// Who computes a product; `library` if there may be one.
pub(crate) fn choose(product: &Product, library: bool) -> By {
    match product.m {
        0 => By::Few,
        1 if product.streams => By::Vector,
        2..=FEW_F32 if product.w == DType::F32 => By::Few,
        _ if library && keeps_the_contract(product) => By::Library,
        1..=FEW => By::Few,
        _ => By::Tiles,
    }
}

/// Whether the library rounds no more than the contract lets it. Beside weights of another type it would have to round `x`.
/// Its kernels for Hopper round a product to the output's type before they add it to what `out` holds (cuBLASLt 13.1 on an
/// H200: 27 % of the elements of bf16 sums are off the nearest), so that it adds in f32 alone.
fn keeps_the_contract(product: &Product) -> bool {
    product.x == product.w && (!product.accumulate || product.out == DType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::{BF16, F16, F32};

    fn product(m: u64, x: DType, w: DType, out: DType, accumulate: bool) -> Product {
        Product { m, streams: true, x, w, out, accumulate }
    }

    #[test]
    fn one_row_stays_with_the_kernel_that_streams_the_weights() {
        for library in [false, true] {
            assert_eq!(choose(&product(1, BF16, BF16, BF16, false), library), By::Vector);
            assert_eq!(choose(&product(0, BF16, BF16, BF16, false), library), By::Few);
        }
    }

    #[test]
    fn one_row_that_it_does_not_take_goes_where_few_go() {
        for (t, library, by) in [(BF16, true, By::Library), (F32, true, By::Library), (BF16, false, By::Few)]
        {
            let odd = Product { streams: false, ..product(1, t, t, F32, true) };
            assert_eq!(choose(&odd, library), by, "{t}");
        }
        let mixed = Product { streams: false, ..product(1, F32, BF16, F32, false) };
        assert_eq!(choose(&mixed, true), By::Few);
    }

    #[test]
    fn few_rows_are_told_from_many() {
        for (m, by) in [(2, By::Few), (8, By::Few), (9, By::Tiles)] {
            assert_eq!(choose(&product(m, BF16, BF16, BF16, false), false), by, "{m}");
            assert_eq!(choose(&product(m, F32, BF16, F32, false), true), by, "{m}");
        }
        for (t, by) in [(F32, By::Few), (F16, By::Library), (BF16, By::Library)] {
            assert_eq!(choose(&product(4, t, t, t, false), true), by);
        }
    }

    #[test]
    fn several_rows_go_to_the_library_where_there_is_one() {
        for t in [F32, F16, BF16] {
            for m in [5, 9] {
                assert_eq!(choose(&product(m, t, t, t, false), true), By::Library);
                assert_eq!(choose(&product(m, t, t, F32, true), true), By::Library);
            }
            assert_eq!(choose(&product(9, t, t, t, false), false), By::Tiles);
        }
    }

    #[test]
    fn activations_are_never_rounded_to_the_type_of_the_weights() {
        for t in [F16, BF16] {
            assert_eq!(choose(&product(512, F32, t, F32, false), true), By::Tiles);
        }
    }

    #[test]
    fn residuals_in_half_precision_are_added_before_they_are_rounded() {
        for t in [F16, BF16] {
            assert_eq!(choose(&product(512, t, t, t, true), true), By::Tiles);
        }
    }
}
