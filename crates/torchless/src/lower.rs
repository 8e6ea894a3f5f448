//! Hands an operation on [`UnifiedTensor`]s to the backend that owns them.

use std::any::Any;

use backend_api::ops::*;
use backend_api::{At, Io, KernelBackend, Mat, MatMut, Result};

use crate::UnifiedTensor;

/// The same value in terms of the tensors of backend `B`.
pub(crate) trait Lower<B> {
    type To;
    fn lower(self, backend: &B) -> Result<Self::To>;
}

impl<'a, B: KernelBackend<Tensor: Any>> Lower<B> for Mat<'a, UnifiedTensor> {
    type To = Mat<'a, B::Tensor>;
    fn lower(self, backend: &B) -> Result<Self::To> {
        self.try_map(|tensor| tensor.part(backend))
    }
}

impl<'a, B: KernelBackend<Tensor: Any>> Lower<B> for MatMut<'a, UnifiedTensor> {
    type To = MatMut<'a, B::Tensor>;
    fn lower(self, backend: &B) -> Result<Self::To> {
        self.try_map(|tensor| tensor.part_mut(backend))
    }
}

impl<'a, B: KernelBackend<Tensor: Any>> Lower<B> for Option<MatMut<'a, UnifiedTensor>> {
    type To = Option<MatMut<'a, B::Tensor>>;
    fn lower(self, backend: &B) -> Result<Self::To> {
        self.map(|m| m.lower(backend)).transpose()
    }
}

impl<'a, B: KernelBackend<Tensor: Any>> Lower<B> for Io<'a, UnifiedTensor> {
    type To = Io<'a, B::Tensor>;
    fn lower(self, backend: &B) -> Result<Self::To> {
        Ok(match self {
            Io::Into(x, out) => Io::Into(x.lower(backend)?, out.lower(backend)?),
            Io::InPlace(m) => Io::InPlace(m.lower(backend)?),
        })
    }
}

impl<'a, B: KernelBackend<Tensor: Any>> Lower<B> for At<'a, UnifiedTensor> {
    type To = At<'a, B::Tensor>;
    fn lower(self, backend: &B) -> Result<Self::To> {
        Ok(At { positions: self.positions.lower(backend)?, first: self.first, distinct: self.distinct })
    }
}

/// For each operation: the fields that hold tensors, and those that are copied.
macro_rules! lower {
    ($($op:ident { $($tensor:ident)* ; $($value:ident)* })*) => { $(
        impl<'a, B: KernelBackend<Tensor: Any>> Lower<B> for $op<'a, UnifiedTensor> {
            type To = $op<'a, B::Tensor>;
            fn lower(self, backend: &B) -> Result<Self::To> {
                Ok($op { $($tensor: self.$tensor.lower(backend)?,)* $($value: self.$value),* })
            }
        }
    )* };
}

lower! {
    Add { io y; }
    AppendRows { src dst at; }
    ApplyRope { io cos sin at; head_dim }
    Argmax { logits id position; }
    Attention { q k v at out scratch; heads window }
    ComputeAttentionScores { q k out; heads scale }
    Embed { table ids out; }
    Matmul { x w out; accumulate layout }
    Mul { io y; }
    NormQkvRopeAppend { x norm w cos sin at qkv k v scratch; eps heads }
    NormSwiglu { x norm w out scratch gate_up; eps }
    RmsNorm { io weight; eps }
    Sample { logits history id position; params }
    Silu { io; }
    Softmax { io; }
    WeightedSumRows { weights rows out; heads }
}
