//! Host tensors: ndarray arrays with a run-time element type.

use std::borrow::Cow;

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayView, Dimension, IxDyn};

use crate::{DType, Element, Error, Result, tensor_bytes};

/// An array on the host, row-major and contiguous.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HostTensor {
    /// binary32.
    F32(ArrayD<f32>),
    /// binary16.
    F16(ArrayD<f16>),
    /// bfloat16.
    BF16(ArrayD<bf16>),
    /// Unsigned 32-bit integers.
    U32(ArrayD<u32>),
}

/// Element types that host arrays can have.
pub trait HostElement: Element {
    /// Wraps an array.
    fn wrap(array: ArrayD<Self>) -> HostTensor;
}

macro_rules! host_element {
    ($($t:ty => $v:ident),*) => { $(impl HostElement for $t {
        fn wrap(array: ArrayD<Self>) -> HostTensor { HostTensor::$v(array) }
    })* };
}
host_element!(f32 => F32, f16 => F16, bf16 => BF16, u32 => U32);

macro_rules! each {
    ($self:expr, $a:ident => $body:expr) => {
        match $self {
            HostTensor::F32($a) => $body,
            HostTensor::F16($a) => $body,
            HostTensor::BF16($a) => $body,
            HostTensor::U32($a) => $body,
        }
    };
}

impl HostTensor {
    /// Copies any view, whatever its strides, into a contiguous tensor.
    pub fn new<E: HostElement, D: Dimension>(view: ArrayView<'_, E, D>) -> Self {
        E::wrap(view.as_standard_layout().into_owned().into_dyn())
    }

    /// Elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if `shape` asks for another number of elements.
    pub fn from_vec<E: HostElement>(shape: &[usize], elements: Vec<E>) -> Result<Self> {
        let got = vec![elements.len()];
        let array = ArrayD::from_shape_vec(IxDyn(shape), elements);
        let wrong =
            |_| Error::Shape { op: "host tensor", operand: "elements", expected: shape.to_vec(), got };
        array.map(E::wrap).map_err(wrong)
    }

    /// Elements as they stand in memory, in the machine's byte order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of bytes is not that of `shape`.
    pub fn from_bytes(shape: &[usize], dtype: DType, bytes: &[u8]) -> Result<Self> {
        if tensor_bytes(shape, dtype)? != bytes.len() {
            let got = vec![bytes.len()];
            return Err(Error::Shape { op: "host tensor", operand: "bytes", expected: shape.to_vec(), got });
        }
        match dtype {
            DType::F32 => Self::from_vec(shape, bytemuck::pod_collect_to_vec::<u8, f32>(bytes)),
            DType::F16 => Self::from_vec(shape, bytemuck::pod_collect_to_vec::<u8, f16>(bytes)),
            DType::BF16 => Self::from_vec(shape, bytemuck::pod_collect_to_vec::<u8, bf16>(bytes)),
            DType::U32 => Self::from_vec(shape, bytemuck::pod_collect_to_vec::<u8, u32>(bytes)),
        }
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F16(_) => DType::F16,
            Self::BF16(_) => DType::BF16,
            Self::U32(_) => DType::U32,
        }
    }

    /// Lengths of the dimensions.
    pub fn shape(&self) -> &[usize] {
        each!(self, a => a.shape())
    }

    /// The elements in row-major order, as they stand in memory; copied only from an array of another layout.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        each!(self, a => match a.as_slice() {
            Some(elements) => Cow::Borrowed(bytemuck::cast_slice(elements)),
            None => Cow::Owned(bytemuck::cast_slice(&a.iter().copied().collect::<Vec<_>>()).to_vec()),
        })
    }

    /// A copy of [`bytes`](Self::bytes).
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes().into_owned()
    }

    /// The elements as f32: exact for the float types, rounded for large integers.
    pub fn to_f32(&self) -> ArrayD<f32> {
        match self {
            Self::F32(a) => a.clone(),
            Self::F16(a) => a.mapv(f16::to_f32),
            Self::BF16(a) => a.mapv(bf16::to_f32),
            Self::U32(a) => a.mapv(|v| v as f32),
        }
    }

    /// The same numbers in another type, rounded to nearest even; integers are cut and saturate.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        let a = self.to_f32();
        match dtype {
            DType::F32 => Self::F32(a),
            DType::F16 => Self::F16(a.mapv(f16::from_f32)),
            DType::BF16 => Self::BF16(a.mapv(bf16::from_f32)),
            DType::U32 => Self::U32(a.mapv(|v| v as u32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis, Slice};

    use super::*;

    #[test]
    fn bytes_round_trip_in_every_type() {
        for dtype in DType::ALL {
            let t = HostTensor::from_vec(&[2, 3], vec![0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap().cast(dtype);
            assert_eq!(t.dtype(), dtype);
            assert_eq!(HostTensor::from_bytes(&[2, 3], dtype, &t.to_bytes()).unwrap(), t);
            assert!(HostTensor::from_bytes(&[2, 2], dtype, &t.to_bytes()).is_err());
        }
    }

    #[test]
    fn bytes_are_row_major_in_every_layout_and_lent_where_they_stand_so() {
        let a = Array2::from_shape_fn((2, 3), |(r, c)| (r * 3 + c) as u32);
        let standard = HostTensor::new(a.view());
        let columns_first =
            HostTensor::U32(a.t().as_standard_layout().into_owned().reversed_axes().into_dyn());
        assert_eq!(columns_first, standard);
        assert!(matches!(standard.bytes(), Cow::Borrowed(_)));
        assert!(matches!(columns_first.bytes(), Cow::Owned(_)));
        assert_eq!(columns_first.bytes(), standard.bytes());
        assert_eq!(standard.to_bytes(), bytemuck::cast_slice::<u32, u8>(&[0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn strided_views_become_contiguous() {
        let a = Array2::from_shape_fn((4, 6), |(r, c)| (r * 6 + c) as f32);
        let (rows, cols) = (Slice::new(0, None, 2), Slice::new(1, None, 2));
        let t = HostTensor::new(a.slice_axis(Axis(0), rows).slice_axis(Axis(1), cols).t());
        assert_eq!(t.shape(), [3, 2]);
        assert_eq!(t.to_f32().iter().copied().collect::<Vec<_>>(), [1.0, 13.0, 3.0, 15.0, 5.0, 17.0]);
    }
}
