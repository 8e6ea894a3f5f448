//! Choosing the next token by chance.
//!
//! The choice is defined in integers, so that the order in which a backend adds has no influence: the same logits,
//! parameters and position give the same token everywhere.

use crate::op::{Check, cost};
use crate::random::philox;
use crate::{DType, DeviceId, DeviceTensor, Error, KernelBackend, Mat, MatMut, Op, Result};

/// How to choose among the logits; the steps run in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleParams {
    /// Each distinct id of the context: a positive logit is divided by this, another multiplied (Keskar et al. 2019,
    /// arXiv:1909.05858). From 10^-6 to 10^6; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Divides the logits. ≥ 0; 0 takes the largest logit and skips the rest.
    pub temperature: f32,
    /// Keeps the k largest logits, of equal ones those of lower id; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely ids whose probabilities reach this share (Holtzman et al. 2019, arXiv:1904.09751).
    /// In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keeps ids at least this share as likely as the most likely one (Nguyen et al. 2024, arXiv:2407.01082). In [0, 1];
    /// 0 keeps all.
    pub min_p: f32,
    /// Key of the random numbers; the counter is the position of the token that is chosen.
    pub seed: u64,
}

impl Default for SampleParams {
    /// The largest logit.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl SampleParams {
    /// Whether each value lies in its range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the value.
    pub fn validate(&self) -> Result<()> {
        let range = |name, value: f32, ok: bool, range: &str| {
            if value.is_finite() && ok {
                return Ok(());
            }
            Err(Error::Argument { name, reason: format!("{value} is not a number {range}") })
        };
        let penalty = self.repetition_penalty;
        range("repetition_penalty", penalty, (1e-6..=1e6).contains(&penalty), "from 0.000001 to 1000000")?;
        range("temperature", self.temperature, self.temperature >= 0.0, "of at least 0")?;
        range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1")?;
        range("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1")
    }

    /// A logit after the penalty for standing in the context.
    pub fn penalized(&self, logit: f32) -> f32 {
        if logit > 0.0 { logit / self.repetition_penalty } else { logit * self.repetition_penalty }
    }

    /// The mass that [`SampleParams::top_p`] asks for, of `total`.
    pub fn top_p_mass(&self, total: u64) -> u64 {
        (f64::from(self.top_p) * total as f64).ceil() as u64
    }

    /// The least weight that [`SampleParams::min_p`] keeps.
    pub fn min_p_weight(&self) -> u64 {
        (f64::from(self.min_p) * WEIGHT_ONE as f64).ceil() as u64
    }

    /// The point in `0..total` at which the cumulated weights, in the order of ids, choose the token for `position`.
    pub fn draw(&self, position: u32, total: u64) -> u64 {
        let [a, b, ..] = philox(self.seed, u64::from(position));
        let random = (u64::from(a) << 32) | u64::from(b);
        ((u128::from(random) * u128::from(total)) >> 64) as u64
    }
}

/// Most ids that [`Sample`] chooses among: their weights add up within 64 bits.
pub const MAX_VOCAB: usize = 1 << 22;

/// The [`weight`] of the most likely id.
pub const WEIGHT_ONE: u64 = 1 << 40;

/// `⌊2^40 · e^x⌋` for `x ≤ 0`, to within one part in 10^12 before the cut; 0 for NaN.
///
/// Only IEEE multiplications and additions in f64, none contracted: the bits are the same on every device.
pub fn weight(x: f32) -> u64 {
    let y = f64::from(x) * std::f64::consts::LOG2_E;
    let floor = y.floor();
    if floor.is_nan() || floor < -41.0 {
        return 0;
    }
    let t = (y - floor) * std::f64::consts::LN_2;
    let series = (1..=14).rev().fold(1.0, |sum, k| 1.0 + sum * t / f64::from(k));
    ((series * WEIGHT_ONE as f64) as u64) >> (-floor) as u32
}

/// Chooses an id from one row of logits by [`SampleParams`]: with `w_i = weight((l_i − max l) / temperature)` of the ids
/// that remain and their sum `t`, the first id, in the order of ids, whose cumulated weight exceeds
/// `⌊r · t / 2^64⌋`, `r` being 64 random bits of the new token's position.
///
/// The penalty applies to `history[0 ..= position]`. The id is written to `id`, the position advances by one, and the id
/// is written to `history` at the new position if that lies inside. Logits with a NaN or +∞, or of −∞ alone, give
/// [`NO_ID`](super::NO_ID), which is written like any other id.
#[derive(Debug)]
pub struct Sample<'a, T> {
    /// `[1, vocab]`, vocab ≤ [`MAX_VOCAB`].
    pub logits: Mat<'a, T>,
    /// u32 `[1, context]`: the ids so far by position; context ≥ 1.
    pub history: MatMut<'a, T>,
    /// u32 `[1, 1]`.
    pub id: MatMut<'a, T>,
    /// u32 `[1, 1]`.
    pub position: MatMut<'a, T>,
    /// How to choose.
    pub params: SampleParams,
}

impl<T: DeviceTensor> Op for Sample<'_, T> {
    const NAME: &'static str = "sample";

    fn validate(&self) -> Result<DeviceId> {
        let check = Check::new(Self::NAME, &self.logits);
        let vocab = self.logits.n_cols();
        check.float("logits", &self.logits, (1, vocab))?;
        check.index("history", &self.history, (1, self.history.n_cols().max(1)))?;
        check.index("id", &self.id, (1, 1))?;
        check.index("position", &self.position, (1, 1))?;
        let (size, limit) = (vocab as u64, MAX_VOCAB as u64);
        if size > limit {
            return Err(Error::TooLarge { op: Self::NAME, operand: "logits", size, limit });
        }
        self.params.validate()?;
        check.done()
    }

    fn bytes(&self) -> u64 {
        self.logits.operand().bytes() + self.id.operand().bytes()
    }

    fn flops(&self) -> u64 {
        cost(&[20, self.logits.n_cols()])
    }
}

pub(crate) fn sample<B: KernelBackend>(
    b: &B,
    logits: &B::Tensor,
    history: &mut B::Tensor,
    position: &mut B::Tensor,
    params: SampleParams,
) -> Result<B::Tensor> {
    let mut id = b.alloc(&[1], DType::U32)?;
    let op = Sample {
        logits: Mat::vector(logits),
        history: MatMut::vector(history),
        id: MatMut::vector(&mut id),
        position: MatMut::vector(position),
        params,
    };
    b.sample_into(op.check()?)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exponentials() {
        assert_eq!(weight(0.0), WEIGHT_ONE);
        for x in [-1e-7f32, -0.1, -0.5, -1.0, -std::f32::consts::LN_2, -5.5, -20.0, -27.7] {
            let want = f64::from(x).exp() * WEIGHT_ONE as f64;
            assert!((weight(x) as f64 - want).abs() <= 1.0 + want * 1e-12, "{x}: {} vs {want}", weight(x));
        }
        for x in [f32::NEG_INFINITY, f32::NAN, -1e30, -29.0] {
            assert_eq!(weight(x), 0, "{x}");
        }
    }

    #[test]
    fn weights_do_not_grow_as_x_falls() {
        let mut last = weight(0.0);
        for i in 0..300_000u32 {
            let w = weight(-(i as f32) * 1e-4);
            assert!(w <= last, "{i}");
            last = w;
        }
    }

    #[test]
    fn parameters_outside_their_range_are_refused_by_name() {
        let ok = SampleParams::default();
        ok.validate().unwrap();
        let wrong = [
            (SampleParams { temperature: f32::NAN, ..ok }, "temperature"),
            (SampleParams { temperature: -1.0, ..ok }, "temperature"),
            (SampleParams { top_p: 0.0, ..ok }, "top_p"),
            (SampleParams { top_p: 1.5, ..ok }, "top_p"),
            (SampleParams { min_p: -0.1, ..ok }, "min_p"),
            (SampleParams { repetition_penalty: 0.0, ..ok }, "repetition_penalty"),
            (SampleParams { repetition_penalty: f32::INFINITY, ..ok }, "repetition_penalty"),
        ];
        for (params, name) in wrong {
            assert!(params.validate().unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn draws_cover_the_range_and_depend_on_seed_and_position() {
        let params = SampleParams { seed: 1, ..SampleParams::default() };
        let counts = (0..4000).fold([0; 4], |mut n, p| {
            n[params.draw(p, 4) as usize] += 1;
            n
        });
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        let other = SampleParams { seed: 2, ..params };
        assert_ne!(params.draw(0, u64::MAX), other.draw(0, u64::MAX));
    }
}
