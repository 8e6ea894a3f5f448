//! Matrices as Hopper's copy engine takes them.

use backend_api::{DType, Mat};

use crate::CudaTensor;
use crate::device::driver;
use crate::tensor::read;

/// A matrix of 16-bit elements with the box that is copied at a time; the driver knows what it says.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct TensorMap([u64; 16]);

/// Columns of a box: 128 bytes, the widest that is swizzled.
const COLUMNS: u32 = 64;

/// Values of enumerations in `cuda.h`.
const F16: u32 = 6;
const BF16: u32 = 9;
const NOT_INTERLEAVED: u32 = 0;
const SWIZZLE_128B: u32 = 3;
const PROMOTE_TO_L2_256B: u32 = 3;
const FILL_WITH_ZEROS: u32 = 0;

impl TensorMap {
    /// A matrix in boxes of `rows` rows by 64 columns; none where the engine, or the driver, does not take it.
    pub(crate) fn new(m: &Mat<'_, CudaTensor>, rows: u32) -> Option<Self> {
        let (_, step) = read::<u32>(m);
        Self::encode(m, [m.n_cols() as u64, m.n_rows() as u64], [step], [COLUMNS, rows])
    }

    /// A matrix of heads in boxes of `rows` rows by 64 columns of a head.
    pub(crate) fn of_heads(m: &Mat<'_, CudaTensor>, head_dim: usize, rows: u32) -> Option<Self> {
        let (_, step) = read::<u32>(m);
        let heads = m.n_cols().checked_div(head_dim)?;
        let sides = [head_dim as u64, heads as u64, m.n_rows() as u64];
        Self::encode(m, sides, [head_dim as u64, step], [COLUMNS, 1, rows])
    }

    /// Sides and box, the fastest first, and the elements from one to the next in all dimensions but that.
    fn encode<const N: usize, const STEPS: usize>(
        m: &Mat<'_, CudaTensor>,
        sides: [u64; N],
        steps: [u64; STEPS],
        boxed: [u32; N],
    ) -> Option<Self> {
        const { assert!(STEPS + 1 == N) }
        let of = match m.tensor().dtype {
            DType::F16 => F16,
            DType::BF16 => BF16,
            _ => return None,
        };
        let steps = steps.map(|step| step.saturating_mul(2));
        let mut map = Self([0; 16]);
        let address = m.tensor().at(m.window().offset) as *mut std::ffi::c_void;
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: the driver writes the map, and reads N sides and N - 1 steps; it refuses what the engine could not take, and
        // touches no memory of the device.
        let made = unsafe {
            driver::tensor_map_encode_tiled(
                std::ptr::from_mut(&mut map).cast(),
                of,
                N as u32,
                address,
                sides.as_ptr(),
                steps.as_ptr(),
                boxed.as_ptr(),
                [1; N].as_ptr(),
                NOT_INTERLEAVED,
                SWIZZLE_128B,
                PROMOTE_TO_L2_256B,
                FILL_WITH_ZEROS,
            )
        };
        made.ok().map(|()| map)
    }
}
