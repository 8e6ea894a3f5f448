//! Checked operations: what is validated once, before any backend sees it.

use crate::{At, DType, DeviceId, DeviceTensor, Error, Mat, MatMut, Operand, Result};

/// An operation: a struct whose public fields name operands and parameters.
pub trait Op: Sized {
    /// The operation's name, the one of its files and of its method.
    const NAME: &'static str;

    /// Whether shapes, types, devices and sizes fit together; gives the device that all operands are on.
    ///
    /// # Errors
    /// The operand that does not fit, as [`Error::Shape`], [`Error::DType`], [`Error::Device`], [`Error::TooLarge`] or
    /// [`Error::Argument`].
    fn validate(&self) -> Result<DeviceId>;

    /// Bytes that must cross the memory bus: every operand once.
    fn bytes(&self) -> u64;

    /// Arithmetic operations; a multiply-add counts as two.
    fn flops(&self) -> u64;

    /// Validates, and wraps the operation in the proof of it that backends ask for.
    ///
    /// # Errors
    /// As [`Op::validate`].
    fn check(self) -> Result<Checked<Self>> {
        let device = self.validate()?;
        Ok(Checked { op: self, device })
    }
}

/// Proof that an operation was validated; made by [`Op::check`] alone.
#[derive(Debug)]
#[must_use = "a checked operation does nothing until a backend runs it"]
pub struct Checked<O> {
    op: O,
    device: DeviceId,
}

impl<O: Op> Checked<O> {
    /// The operation, by value so that its inputs and outputs can be borrowed apart, for the backend that owns its
    /// tensors.
    ///
    /// # Errors
    /// [`Error::Device`] if the tensors belong to another backend.
    pub fn on(self, device: DeviceId) -> Result<O> {
        if self.device == device {
            return Ok(self.op);
        }
        Err(Error::Device { op: O::NAME, operand: "operands", expected: device, got: self.device })
    }

    /// The operation, for its costs.
    pub fn get(&self) -> &O {
        &self.op
    }
}

/// Heads of an attention layer. Query head `i` uses key/value head `i / (n_heads / n_kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
}

impl Heads {
    /// One query head that has a key/value head to itself.
    pub fn single(head_dim: usize) -> Self {
        Self { n_heads: 1, n_kv_heads: 1, head_dim }
    }

    /// Elements of all query heads of a token.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Elements of all key (or value) heads of a token.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Elements of a token's queries, keys and values.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }

    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads.max(1)
    }

    /// `1 / √head_dim`, the scale of the scores.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn validate(&self, op: &'static str) -> Result<()> {
        let wrong = |reason: &str| Err(Error::Argument { name: "heads", reason: format!("{op}: {reason}") });
        let sizes = [self.n_heads, self.n_kv_heads, self.head_dim];
        if sizes.contains(&0) || sizes.iter().any(|n| *n > 1 << 20) {
            return wrong("head counts and head_dim must lie between 1 and 2^20");
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return wrong("n_heads must be a multiple of n_kv_heads");
        }
        Ok(())
    }

    /// What products of heads need: groups that come out even, and sizes that can be counted. Gives `rows · n_heads`.
    fn grouped(&self, op: &'static str, rows: usize) -> Result<usize> {
        let wrong = |reason: &str| Error::Argument { name: "heads", reason: format!("{op}: {reason}") };
        if self.n_kv_heads == 0 || self.n_heads == 0 || !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(wrong("n_heads must be a positive multiple of n_kv_heads"));
        }
        let counted = self.n_heads.checked_mul(self.head_dim).and_then(|_| rows.checked_mul(self.n_heads));
        counted.ok_or_else(|| wrong("rows · n_heads and n_heads · head_dim must be countable"))
    }
}

/// Anything that stands in memory as one operand.
pub(crate) trait AsOperand {
    fn as_operand(&self) -> Operand;
}
impl<T: DeviceTensor> AsOperand for Mat<'_, T> {
    fn as_operand(&self) -> Operand {
        self.operand()
    }
}
impl<T: DeviceTensor> AsOperand for MatMut<'_, T> {
    fn as_operand(&self) -> Operand {
        self.operand()
    }
}
impl AsOperand for Operand {
    fn as_operand(&self) -> Operand {
        *self
    }
}

/// Checks the operands of one operation, one after the other.
pub(crate) struct Check {
    op: &'static str,
    device: DeviceId,
}

impl Check {
    /// `first` is the operand whose device the others must share.
    pub(crate) fn new(op: &'static str, first: &impl AsOperand) -> Self {
        Self { op, device: first.as_operand().device }
    }

    pub(crate) fn done(self) -> Result<DeviceId> {
        Ok(self.device)
    }

    /// A float operand of rows × cols.
    pub(crate) fn float(&self, name: &'static str, m: &impl AsOperand, shape: (usize, usize)) -> Result<()> {
        self.typed(name, m, shape, DType::is_float, "a float type")
    }

    /// A u32 operand of rows × cols.
    pub(crate) fn index(&self, name: &'static str, m: &impl AsOperand, shape: (usize, usize)) -> Result<()> {
        self.typed(name, m, shape, |d| d == DType::U32, "u32")
    }

    /// An f32 operand of rows × cols.
    pub(crate) fn f32(&self, name: &'static str, m: &impl AsOperand, shape: (usize, usize)) -> Result<()> {
        self.typed(name, m, shape, |d| d == DType::F32, "f32")
    }

    /// Positions of the rows, the tables of angles they look into, and the heads they turn.
    pub(crate) fn rotary<T: DeviceTensor>(
        &self,
        cos: &Mat<'_, T>,
        sin: &Mat<'_, T>,
        at: &At<'_, T>,
        (rows, head_dim): (usize, usize),
    ) -> Result<()> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            let reason = format!("{}: {head_dim} is not a positive even number", self.op);
            return Err(Error::Argument { name: "head_dim", reason });
        }
        let table = (cos.n_rows(), head_dim / 2);
        self.f32("cos", cos, table)?;
        self.f32("sin", sin, table)?;
        self.index("positions", &at.positions, (1, rows))
    }

    pub(crate) fn heads(&self, heads: &Heads) -> Result<()> {
        heads.validate(self.op)
    }

    /// `rows · n_heads`, for operations that treat heads as rows.
    pub(crate) fn rows_of_heads(&self, heads: &Heads, rows: usize) -> Result<usize> {
        heads.grouped(self.op, rows)
    }

    pub(crate) fn eps(&self, eps: f32) -> Result<()> {
        if eps.is_finite() && eps >= 0.0 {
            return Ok(());
        }
        Err(Error::Argument {
            name: "eps", reason: format!("{}: {eps} is not a finite number ≥ 0", self.op)
        })
    }

    /// A count that kernels keep in a u32.
    pub(crate) fn fits_u32(&self, operand: &'static str, size: usize) -> Result<()> {
        let limit = u64::from(u32::MAX);
        let size = size as u64;
        if size <= limit { Ok(()) } else { Err(Error::TooLarge { op: self.op, operand, size, limit }) }
    }

    fn typed(
        &self,
        operand: &'static str,
        m: &impl AsOperand,
        (rows, cols): (usize, usize),
        takes: impl Fn(DType) -> bool,
        expected: &'static str,
    ) -> Result<()> {
        let (m, op) = (m.as_operand(), self.op);
        if !takes(m.dtype) {
            return Err(Error::DType { op, operand, expected, got: m.dtype });
        }
        if (m.window.rows, m.window.cols) != (rows, cols) {
            let got = vec![m.window.rows, m.window.cols];
            return Err(Error::Shape { op, operand, expected: vec![rows, cols], got });
        }
        if m.device != self.device {
            return Err(Error::Device { op, operand, expected: self.device, got: m.device });
        }
        Ok(())
    }
}

/// Product of sizes as a cost; saturates.
pub(crate) fn cost(factors: &[usize]) -> u64 {
    factors.iter().fold(1u64, |n, f| n.saturating_mul(*f as u64))
}
