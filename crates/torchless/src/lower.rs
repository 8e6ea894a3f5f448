//! Hands an operation on [`UnifiedTensor`]s to the backend that owns them.

use backend_api::ops::*;
use backend_api::{At, Io, Mat, MatMut, Result};

use crate::UnifiedTensor;
use crate::unified::Part;

/// The same value in terms of a backend's own tensor `U`.
pub(crate) trait Lower<U> {
    type To;
    fn lower(self) -> Result<Self::To>;
}

impl<'a, U: Part + 'a> Lower<U> for Mat<'a, UnifiedTensor> {
    type To = Mat<'a, U>;
    fn lower(self) -> Result<Mat<'a, U>> {
        self.try_map(U::read)
    }
}

impl<'a, U: Part + 'a> Lower<U> for MatMut<'a, UnifiedTensor> {
    type To = MatMut<'a, U>;
    fn lower(self) -> Result<MatMut<'a, U>> {
        self.try_map(U::write)
    }
}

impl<'a, U: Part + 'a> Lower<U> for Option<MatMut<'a, UnifiedTensor>> {
    type To = Option<MatMut<'a, U>>;
    fn lower(self) -> Result<Option<MatMut<'a, U>>> {
        self.map(Lower::lower).transpose()
    }
}

impl<'a, U: Part + 'a> Lower<U> for Io<'a, UnifiedTensor> {
    type To = Io<'a, U>;
    fn lower(self) -> Result<Io<'a, U>> {
        Ok(match self {
            Io::Into(x, out) => Io::Into(x.lower()?, out.lower()?),
            Io::InPlace(m) => Io::InPlace(m.lower()?),
        })
    }
}

impl<'a, U: Part + 'a> Lower<U> for At<'a, UnifiedTensor> {
    type To = At<'a, U>;
    fn lower(self) -> Result<At<'a, U>> {
        Ok(At { positions: self.positions.lower()?, first: self.first })
    }
}

/// For each operation: the fields that hold tensors, and those that are copied.
macro_rules! lower {
    ($($op:ident { $($tensor:ident)* ; $($value:ident)* })*) => { $(
        impl<'a, U: Part + 'a> Lower<U> for $op<'a, UnifiedTensor> {
            type To = $op<'a, U>;
            fn lower(self) -> Result<$op<'a, U>> {
                Ok($op { $($tensor: self.$tensor.lower()?,)* $($value: self.$value),* })
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
