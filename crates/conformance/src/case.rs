//! Running cases: operands inside larger tensors, and comparing what comes back.

use backend_api::{DType, DeviceTensor, Error, Io, KernelBackend, Mat, MatMut, Result as BackendResult};

use crate::host::{Host, decode};
use crate::report::{Failure, Group, Problem, Report, Step, ensure};
use crate::tolerance::{Judge, NMSE_MIN_ELEMENTS, Want, nmse_bound, nmse_of_case};
pub(crate) use crate::types::Types;

/// How far an operand's tensor reaches beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    top: usize,
    left: usize,
    bottom: usize,
    right: usize,
}

impl Place {
    /// The operand is the tensor.
    pub(crate) const WHOLE: Self = Self { top: 0, left: 0, bottom: 0, right: 0 };
    /// Rows start at odd addresses.
    const ODD: Self = Self { top: 1, left: 3, bottom: 2, right: 4 };
    /// Rows start where wide loads can.
    const ALIGNED: Self = Self { top: 2, left: 16, bottom: 1, right: 16 };
}

/// A case: its inputs follow from its name.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    name: String,
    /// Of the inputs; operands add their number.
    pub(crate) seed: u64,
    /// Its types, where they are a mixture.
    mixture: Option<Types>,
}

impl Case {
    pub(crate) fn new(types: Types, shape: impl std::fmt::Display) -> Self {
        let mixture = types.mixed().then_some(types);
        Self { mixture, ..Self::named(format!("{types}, {shape}")) }
    }

    /// A case of one type.
    pub(crate) fn named(name: String) -> Self {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self { seed: name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv) >> 16, name, mixture: None }
    }
}

/// The cases of one operation against one backend.
pub(crate) struct Run<'b, B> {
    pub(crate) backend: &'b B,
    pub(crate) group: Group,
    op: &'static str,
    report: Report,
    /// Mixtures that a decoder issues to this backend.
    issued: Vec<Types>,
}

impl<'b, B: KernelBackend> Run<'b, B> {
    pub(crate) fn new(backend: &'b B, op: &'static str, group: Group) -> Self {
        Self { backend, group, op, report: Report::default(), issued: Vec::new() }
    }

    /// The same with what a decoder issues: `types` of weights of a type and of the type in which the backend wants
    /// activations beside them. The backend may not refuse these.
    pub(crate) fn issued(mut self, types: impl Fn(DType, DType) -> Types) -> Self {
        let of = |weights| types(weights, self.backend.activation_dtype(weights));
        self.issued = DType::FLOATS.into_iter().map(of).filter(Types::mixed).collect();
        self
    }

    pub(crate) fn report(self) -> Report {
        self.report
    }

    /// Where operands lie: in the whole of a tensor first.
    pub(crate) fn places(&self) -> &'static [Place] {
        match self.group {
            Group::Quick => &[Place::WHOLE, Place::ODD],
            _ => &[Place::WHOLE, Place::ODD, Place::ALIGNED],
        }
    }

    /// The places of the `n`-th of several cases that are alike: all, and in the quick group one.
    pub(crate) fn places_of(&self, n: usize) -> &'static [Place] {
        let places = self.places();
        let one = n % places.len();
        if self.group == Group::Quick { &places[one..=one] } else { places }
    }

    /// What the host knows of the first position: that or nothing, and in the quick group that alone.
    pub(crate) fn firsts(&self, first: Option<usize>) -> Vec<Option<usize>> {
        if first.is_some() && self.group == Group::Full { vec![first, None] } else { vec![first] }
    }

    /// All mixtures of types with the cases that they get: mixtures a few, types that are required the whole grid. The
    /// quick group takes those mixtures alone that a decoder issues: under a sanitizer a launch costs milliseconds.
    pub(crate) fn grid<S: Copy>(&self, quick: &[S], full: &[S]) -> Vec<(Types, S)> {
        let shapes = if self.group == Group::Full { [quick, full].concat() } else { quick.to_vec() };
        let required = Types::uniform().flat_map(|t| shapes.iter().map(move |s| (t, *s)));
        let optional = Types::mixtures().filter(|t| self.group == Group::Full && !self.issued.contains(t));
        let mixtures =
            optional.chain(self.issued.iter().copied()).flat_map(|t| quick.iter().map(move |s| (t, *s)));
        if self.group == Group::Huge { Vec::new() } else { required.chain(mixtures).collect() }
    }

    /// The types that every backend takes, for cases of their own.
    pub(crate) fn required(&self) -> Vec<Types> {
        if self.group == Group::Huge { Vec::new() } else { Types::uniform().collect() }
    }

    /// Runs one form of a case. A mixture of types that no decoder issues may be refused with [`Error::DType`].
    ///
    /// # Errors
    /// What went wrong, with the case.
    pub(crate) fn case(
        &mut self,
        case: &Case,
        form: &str,
        body: impl FnOnce(&'b B) -> Step,
    ) -> Result<(), Failure> {
        match body(self.backend) {
            Ok(()) => self.report.cases += 1,
            Err(Problem::Backend(Error::DType { .. })) if self.may_refuse(case) => self.report.refused += 1,
            Err(problem) => {
                let name = format!("{}, {form}", case.name);
                return Err(Failure { op: self.op, case: name, seed: case.seed, what: problem.to_string() });
            }
        }
        Ok(())
    }

    fn may_refuse(&self, case: &Case) -> bool {
        case.mixture.is_some_and(|types| !self.issued.contains(&types))
    }
}

/// An operand on the device, inside a tensor whose other elements are a NaN of a known pattern (integers:
/// 0xa5a5a5a5).
pub(crate) struct Slot<T> {
    pub(crate) tensor: T,
    image: Vec<u8>,
    place: Place,
    rows: usize,
    cols: usize,
}

/// The bytes of an element that must not be read or written.
fn sentinel(dtype: DType) -> &'static [u8] {
    match dtype {
        DType::F16 => &[0x5a, 0x7e],
        DType::BF16 => &[0xda, 0x7f],
        DType::U32 => &[0xa5; 4],
        _ => &[0xa5, 0xa5, 0xc5, 0x7f],
    }
}

impl<T: DeviceTensor> Slot<T> {
    /// Uploads an input, or an output that holds something before.
    pub(crate) fn new<B: KernelBackend<Tensor = T>>(b: &B, host: &Host, place: Place) -> BackendResult<Self> {
        let mut slot = Self::image(host.dtype, (host.rows, host.cols), place);
        let (width, size) = (slot.width(), host.dtype.block_bytes());
        for (row, source) in host.to_bytes().chunks_exact((host.cols * size).max(1)).enumerate() {
            let start = ((place.top + row) * width + place.left) * size;
            slot.image[start..start + source.len()].copy_from_slice(source);
        }
        slot.send(b, host.dtype)
    }

    /// An output of sentinels.
    pub(crate) fn blank<B: KernelBackend<Tensor = T>>(
        b: &B,
        shape: (usize, usize),
        dtype: DType,
        place: Place,
    ) -> BackendResult<Self> {
        Self::image(dtype, shape, place).send(b, dtype)
    }

    fn image(dtype: DType, (rows, cols): (usize, usize), place: Place) -> Slot<()> {
        let elements = (place.top + rows + place.bottom) * (place.left + cols + place.right);
        Slot { tensor: (), image: sentinel(dtype).repeat(elements), place, rows, cols }
    }

    pub(crate) fn mat(&self) -> BackendResult<Mat<'_, T>> {
        let Place { top, left, .. } = self.place;
        Mat::new(&self.tensor).sub(top..top + self.rows, left..left + self.cols)
    }

    pub(crate) fn mat_mut(&mut self) -> BackendResult<MatMut<'_, T>> {
        let Place { top, left, .. } = self.place;
        MatMut::new(&mut self.tensor).sub(top..top + self.rows, left..left + self.cols)
    }

    /// Whether everything around the operand is as before.
    pub(crate) fn surroundings<B: KernelBackend<Tensor = T>>(&self, b: &B, name: &str) -> Step<Vec<f64>> {
        let (dtype, width) = (self.tensor.dtype(), self.width());
        let (bytes, size) = (b.download(&self.tensor)?, dtype.block_bytes());
        let Place { top, left, .. } = self.place;
        let mut window = Vec::with_capacity(self.rows * self.cols * size);
        let rows = bytes.chunks((width * size).max(1)).zip(self.image.chunks((width * size).max(1)));
        for (row, (got, was)) in rows.enumerate() {
            let inside = (top..top + self.rows).contains(&row);
            let cols = if inside { left * size..(left + self.cols) * size } else { 0..0 };
            window.extend_from_slice(&got[cols.clone()]);
            let changed = |range: std::ops::Range<usize>| {
                let offset = range.start;
                got[range.clone()].iter().zip(&was[range]).position(|(g, w)| g != w).map(|i| offset + i)
            };
            if let Some(byte) = changed(0..cols.start).or_else(|| changed(cols.end..got.len())) {
                let at = (row as i64 - top as i64, (byte / size) as i64 - left as i64);
                let (rows, cols) = (self.rows, self.cols);
                let what = format!("{name}{at:?} was written, outside the window of {rows} x {cols}");
                return Err(Problem::Wrong(what));
            }
        }
        Ok(decode(dtype, &window))
    }

    /// Whether the operand is as wanted and everything around it as before.
    pub(crate) fn check<B: KernelBackend<Tensor = T>>(
        &self,
        b: &B,
        name: &str,
        want: &[Want],
        judge: Judge,
    ) -> Step {
        let got = self.surroundings(b, name)?;
        compare(name, self.cols, self.tensor.dtype(), &got, want, judge)
    }
}

impl<T> Slot<T> {
    fn width(&self) -> usize {
        self.place.left + self.cols + self.place.right
    }
}

impl Slot<()> {
    fn send<B: KernelBackend>(self, b: &B, dtype: DType) -> BackendResult<Slot<B::Tensor>> {
        let shape = [self.place.top + self.rows + self.place.bottom, self.width()];
        let tensor = b.upload(&shape, dtype, &|offset, out| {
            out.copy_from_slice(&self.image[offset..offset + out.len()]);
            Ok(())
        })?;
        Ok(Slot { tensor, image: self.image, place: self.place, rows: self.rows, cols: self.cols })
    }
}

/// Whether a tensor that a backend made has this shape and these elements.
pub(crate) fn check_tensor<B: KernelBackend>(
    b: &B,
    tensor: &B::Tensor,
    (shape, dtype): (&[usize], DType),
    want: &[Want],
    judge: Judge,
) -> Step {
    ensure(tensor.shape() == shape && tensor.dtype() == dtype, || {
        let (got, got_dtype) = (tensor.shape(), tensor.dtype());
        format!("returned {got_dtype} {got:?} instead of {dtype} {shape:?}")
    })?;
    let cols = shape.last().copied().unwrap_or(1);
    compare("out", cols, dtype, &decode(dtype, &b.download(tensor)?), want, judge)
}

/// Compares element by element, and their mean square.
pub(crate) fn compare(
    name: &str,
    cols: usize,
    dtype: DType,
    got: &[f64],
    want: &[Want],
    judge: Judge,
) -> Step {
    ensure(got.len() == want.len(), || format!("{name}: {} elements, {} wanted", got.len(), want.len()))?;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let ok = match judge {
            Judge::Bits => same_bits(*g, crate::round(dtype, w.value)),
            _ => w.accepts(dtype, *g),
        };
        ensure(ok, || {
            let (low, high) = if judge == Judge::Bits { (w.value, w.value) } else { w.range(dtype) };
            let (row, col, want) = (i / cols, i % cols, w.value);
            format!("{name}[{row}, {col}] ({dtype}): got {g:e}, want {want:e}, accepted {low:e} ..= {high:e}")
        })?;
    }
    if want.len() < NMSE_MIN_ELEMENTS || judge == Judge::Bits {
        return Ok(());
    }
    let (nmse, bound) = (nmse_of_case(dtype, got, want), nmse_bound(dtype, judge));
    ensure(nmse <= bound, || format!("{name} ({dtype}): NMSE {nmse:e} exceeds {bound:e}"))
}

fn same_bits(got: f64, want: f64) -> bool {
    got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan())
}

/// An elementwise or rowwise operation: every form of it is run.
pub(crate) struct IoCase<'a> {
    pub(crate) x: &'a Host,
    pub(crate) out: DType,
    pub(crate) others: &'a [&'a Host],
    pub(crate) want: &'a [Want],
    pub(crate) judge: Judge,
}

impl IoCase<'_> {
    /// Into an output and in place, for every place; and the form that returns its output.
    pub(crate) fn run<B: KernelBackend>(
        &self,
        run: &mut Run<'_, B>,
        case: &Case,
        op: impl Fn(Io<'_, B::Tensor>, &[Mat<'_, B::Tensor>]) -> BackendResult<()>,
        bare: impl Fn(&[&B::Tensor]) -> BackendResult<B::Tensor>,
    ) -> Result<(), Failure> {
        let shape = (self.x.rows, self.x.cols);
        for place in run.places() {
            run.case(case, &format!("into, {place:?}"), |b| {
                let x = Slot::new(b, self.x, *place)?;
                let others = self.upload(b, *place)?;
                let mut out = Slot::blank(b, shape, self.out, *place)?;
                op(Io::Into(x.mat()?, out.mat_mut()?), &windows(&others)?)?;
                out.check(b, "out", self.want, self.judge)
            })?;
            if self.x.dtype == self.out {
                run.case(case, &format!("in place, {place:?}"), |b| {
                    let mut x = Slot::new(b, self.x, *place)?;
                    let others = self.upload(b, *place)?;
                    op(Io::InPlace(x.mat_mut()?), &windows(&others)?)?;
                    x.check(b, "out", self.want, self.judge)
                })?;
            }
        }
        if self.x.dtype != self.out {
            return Ok(());
        }
        run.case(case, "returning", |b| {
            let x = Slot::new(b, self.x, Place::WHOLE)?;
            let others = self.upload(b, Place::WHOLE)?;
            let operands: Vec<_> = [&x].into_iter().chain(&others).map(|s| &s.tensor).collect();
            let out = bare(&operands)?;
            check_tensor(b, &out, (&[shape.0, shape.1], self.out), self.want, self.judge)
        })
    }

    fn upload<B: KernelBackend>(&self, b: &B, place: Place) -> BackendResult<Vec<Slot<B::Tensor>>> {
        self.others.iter().map(|host| Slot::new(b, host, place)).collect()
    }
}

fn windows<T: DeviceTensor>(slots: &[Slot<T>]) -> BackendResult<Vec<Mat<'_, T>>> {
    slots.iter().map(Slot::mat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::ToyBackend;

    #[test]
    fn only_mixtures_that_no_decoder_issues_may_be_refused() {
        use DType::{BF16, F16, F32};
        let toy = ToyBackend::new();
        let issued =
            |w, t| if w == F16 { Types { x: BF16, w, out: F16 } } else { Types { x: t, w, out: F32 } };
        let mut run = Run::new(&toy, "matmul", Group::Full).issued(issued);
        let grid = run.grid(&[()], &[]);
        for (x, w, out, may) in [
            (F32, F32, F32, false),
            (F32, BF16, F32, false),
            (BF16, F16, F16, false),
            (F32, F16, F32, true),
            (F32, BF16, BF16, true),
        ] {
            let types = Types { x, w, out };
            assert_eq!(grid.iter().filter(|(t, ())| *t == types).count(), 1, "{types}");
            let (op, operand, expected) = ("matmul", "x", "another type");
            let refuse = |_: &_| Err(Error::DType { op, operand, expected, got: x }.into());
            assert_eq!(run.case(&Case::new(types, "1 x 1"), "into", refuse).is_ok(), may, "{types}");
        }
        assert_eq!(run.report(), Report { cases: 0, refused: 2 });
    }
}
