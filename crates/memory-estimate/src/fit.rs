use crate::estimate::mib;
use crate::{Accounting, EstimateError, EstimateRequest, Exact, WeightDtype};
use serde::Serialize;
use std::fmt;

/// One setting of a request, changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Adjustment {
    /// Whatever is f32 of weights and KV cache is stored in this dtype instead.
    Dtype(WeightDtype),
    /// Fewer prompt tokens pass through the model at once.
    PrefillChunk(usize),
    /// A session holds fewer tokens.
    Context(usize),
    /// Fewer sessions.
    Batch(usize),
}

impl Adjustment {
    /// The request with this one setting changed.
    #[must_use]
    pub fn apply<'a>(self, request: &EstimateRequest<'a>) -> EstimateRequest<'a> {
        let narrow = |old, new| if old == WeightDtype::F32 { new } else { old };
        match self {
            Self::Dtype(dtype) => EstimateRequest {
                dtype: narrow(request.dtype, dtype),
                kv_dtype: narrow(request.kv_dtype, dtype),
                ..*request
            },
            Self::PrefillChunk(prefill_chunk) => EstimateRequest { prefill_chunk, ..*request },
            Self::Context(context) => EstimateRequest { context, ..*request },
            Self::Batch(batch) => EstimateRequest { batch, ..*request },
        }
    }
}

impl fmt::Display for Adjustment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dtype(dtype) => write!(f, "dtype {dtype}"),
            Self::PrefillChunk(rows) => write!(f, "prefill chunk {rows}"),
            Self::Context(tokens) => write!(f, "context {tokens}"),
            Self::Batch(sessions) => write!(f, "batch {sessions}"),
        }
    }
}

/// A single change that makes the request fit, and what it then needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The change.
    pub adjustment: Adjustment,
    /// Bytes needed with it.
    pub total: u64,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs {:.2} MiB", self.adjustment, mib(self.total))
    }
}

/// Whether a request fits a budget, and otherwise what would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fit {
    /// Bytes available.
    pub budget: u64,
    /// Bytes that the request needs.
    pub needed: u64,
    /// Each single change that suffices, at its largest value that fits; empty when the request
    /// fits as it is, and when no single change suffices.
    pub changes: Vec<Change>,
    /// Bytes below which no change helps: two-byte weights and KV cache, context, batch and prefill
    /// chunk 1.
    pub minimum: u64,
}

impl Fit {
    /// Whether the request fits as it is.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.needed <= self.budget
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (needed, budget, minimum) = (mib(self.needed), mib(self.budget), mib(self.minimum));
        if self.fits() {
            return write!(f, "fits: {needed:.2} of {budget:.2} MiB");
        }
        write!(f, "does not fit: needs {needed:.2} MiB of {budget:.2} MiB")?;
        if self.minimum > self.budget {
            return write!(f, "; nothing makes it fit, the least this model needs is {minimum:.2} MiB");
        }
        if self.changes.is_empty() {
            return write!(
                f,
                "; no single change suffices, together they need as little as {minimum:.2} MiB"
            );
        }
        for (i, change) in self.changes.iter().enumerate() {
            write!(f, "{}{change}", if i == 0 { "; fits with: " } else { ", or " })?;
        }
        Ok(())
    }
}

impl EstimateRequest<'_> {
    /// Compares the request with a budget in bytes and lists the single changes that make it fit:
    /// a two-byte dtype where f32 is used, the largest smaller prefill chunk, context and batch.
    ///
    /// # Errors
    /// As [`EstimateRequest::estimate`].
    pub fn fit(&self, budget: u64) -> Result<Fit, EstimateError> {
        self.fit_on(&Exact, budget)
    }

    /// As [`EstimateRequest::fit`], for a device that accounts so.
    ///
    /// # Errors
    /// As [`EstimateRequest::estimate`].
    pub fn fit_on(&self, device: &dyn Accounting, budget: u64) -> Result<Fit, EstimateError> {
        let needed = self.estimate_on(device)?.total();
        let least = EstimateRequest { context: 1, batch: 1, prefill_chunk: 1, ..*self };
        let least = Adjustment::Dtype(WeightDtype::Bf16).apply(&least);
        let minimum = least.estimate_on(device)?.total();
        let mut changes = Vec::new();
        if needed > budget {
            for dtype in [WeightDtype::Bf16, WeightDtype::F16] {
                let adjustment = Adjustment::Dtype(dtype);
                let total = adjustment.apply(self).estimate_on(device)?.total();
                if total <= budget {
                    changes.push(Change { adjustment, total });
                }
            }
            let rows = self.prefill_chunk.min(self.context);
            changes.extend(self.largest(device, budget, rows, Adjustment::PrefillChunk)?);
            changes.extend(self.largest(device, budget, self.context, Adjustment::Context)?);
            changes.extend(self.largest(device, budget, self.batch, Adjustment::Batch)?);
        }
        Ok(Fit { budget, needed, changes, minimum })
    }

    /// The change to the largest value below `current` that fits. Every part of the layout grows
    /// with each of the settings, so the values that fit are a prefix and can be bisected.
    fn largest(
        &self,
        device: &dyn Accounting,
        budget: u64,
        current: usize,
        adjustment: impl Fn(usize) -> Adjustment,
    ) -> Result<Option<Change>, EstimateError> {
        let (mut low, mut high) = (1, current);
        let mut best = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let adjustment = adjustment(middle);
            let total = adjustment.apply(self).estimate_on(device)?.total();
            if total <= budget {
                best = Some(Change { adjustment, total });
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(best)
    }
}
