//! One row of more than 2^31 elements.
//!
//! f32 sums of so many terms may be anything: bounds hold for terms that are added, and one that is small beside the sum is
//! not. So a few peaks outweigh all other elements together.

use std::collections::BTreeMap;

use backend_api::ops::{Argmax, NO_ID, RmsNorm, Softmax};
use backend_api::{DType, Io, KernelBackend, Mat, MatMut, Op};

use super::{COLS, DTYPE, ROWS, Random, SEED, SPAN, check, check_from, filled, places, put};
use crate::Failure;
use crate::case::{Case, Run};
use crate::host::round;
use crate::report::Step;
use crate::tolerance::{Judge, U, Want, gamma};

const LEN: usize = ROWS * COLS;

fn case(dtype: DType) -> Case {
    Case::named(format!("1 x {LEN} {dtype}"))
}

/// A row with peaks at every second element of the spans that are checked.
struct Row<T> {
    tensor: T,
    others: Random,
    peaks: BTreeMap<usize, f64>,
}

impl<T> Row<T> {
    fn new<B: KernelBackend<Tensor = T>>(b: &B, others: Random, peak: impl Fn(usize) -> f64) -> Step<Self> {
        let tensor = others.tensor(b, (1, LEN))?;
        let indices = places().into_iter().flat_map(|first| (first..first + SPAN).step_by(2));
        let peaks = indices.map(|i| (i, round(others.dtype, peak(i)))).collect();
        let mut row = Self { tensor, others, peaks };
        for first in places() {
            let values: Vec<f64> = (first..first + SPAN).map(|i| row.at(i)).collect();
            put(b, &mut row.tensor, first, &values)?;
        }
        Ok(row)
    }

    fn at(&self, index: usize) -> f64 {
        self.peaks.get(&index).copied().unwrap_or_else(|| self.others.at(index))
    }
}

pub(super) fn softmax<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case(DTYPE), "in place", |b| {
        // All others together have a share of 2^31 e^-54.
        let others = Random { dtype: DTYPE, seed: SEED, scale: 2.0 };
        let peak = Random { seed: SEED + 1, ..others };
        let mut row = Row::new(b, others, |i| 60.0 + peak.at(i))?;
        let peaks: Vec<f64> = row.peaks.values().copied().collect();
        b.softmax_into(Softmax { io: Io::InPlace(MatMut::new(&mut row.tensor)) }.check()?)?;
        check(b, &row.tensor, Judge::Reduction, |i| match row.peaks.range(..i).count() {
            n if row.peaks.contains_key(&i) => super::softmax::row(&peaks)[n],
            _ => super::softmax::row(&[&peaks[..], &[row.at(i)]].concat())[peaks.len()],
        })
    })
}

pub(super) fn rmsnorm<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case(DType::F32), "in place", |b| {
        // The squares of all others come to 2^31 · 10^-8 / 3, of the peaks to 10^7.
        let others = Random { dtype: DType::F32, seed: SEED, scale: 1e-4 };
        let (peak, gain) = (Random { scale: 1e3, ..others }, Random { seed: SEED + 1, scale: 1.5, ..others });
        let (mut row, weight) = (Row::new(b, others, |i| peak.at(i))?, gain.tensor(b, (1, LEN))?);
        let (io, eps) = (Io::InPlace(MatMut::new(&mut row.tensor)), 1e-5);
        b.rmsnorm_into(RmsNorm { io, weight: Mat::vector(&weight), eps }.check()?)?;
        let of_others = LEN as f64 * f64::from(others.scale).powi(2) / 3.0;
        let squares = row.peaks.values().map(|v| v * v).sum::<f64>() + of_others;
        let scale = 1.0 / (squares / LEN as f64 + f64::from(eps)).sqrt();
        // Others may count or not.
        let error = gamma(row.peaks.len()) + of_others / squares + 6.0 * U;
        check(b, &row.tensor, Judge::Reduction, |i| Want::relative(row.at(i) * scale * gain.at(i), error))
    })
}

pub(super) fn argmax<B: KernelBackend>(run: &mut Run<'_, B>) -> Result<(), Failure> {
    run.case(&case(DTYPE), "into", |b| {
        let mut x = filled(b, (1, LEN), SEED, 2.0)?;
        let mut id = b.alloc(&[1], DType::U32)?;
        // Each is written beside those before.
        for (at, value, want) in [
            (LEN - 1, 4.0, LEN as u32 - 1),
            ((1 << 31) + 777, 4.0, (1 << 31) + 777),
            ((1 << 31) - 1, 4.0, (1 << 31) - 1),
            (1 << 31, f64::NAN, NO_ID),
        ] {
            put(b, &mut x, at, &[value])?;
            let (logits, ids) = (Mat::new(&x), MatMut::vector(&mut id));
            b.argmax_into(Argmax { logits, id: ids, position: None }.check()?)?;
            check_from(b, &id, 0, &[Want::exact(f64::from(want))], Judge::Bits)?;
        }
        Ok(())
    })
}
