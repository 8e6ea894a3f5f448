//! Every operation refuses operands that do not fit together, and names the one that does not.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
use backend_api::ops::*;
use backend_api::{At, Checked, DType, DeviceId, DeviceTensor, Error, Heads, Io, Mat, MatMut, Op, Result};

/// A tensor without contents: checks look at nothing else.
struct Fake {
    shape: Vec<usize>,
    dtype: DType,
    device: DeviceId,
}

impl DeviceTensor for Fake {
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn device(&self) -> DeviceId {
        self.device
    }
}

/// What one operand of a good operation is replaced with.
#[derive(Clone, Copy, PartialEq)]
enum Damage {
    None,
    /// One more column.
    Shape(&'static str),
    /// Integers for floats, floats for integers.
    DType(&'static str),
    /// Another backend's tensor.
    Device(&'static str),
}

struct Maker {
    damage: Damage,
    here: DeviceId,
    elsewhere: DeviceId,
}

impl Maker {
    fn new(damage: Damage) -> Self {
        Self { damage, here: DeviceId::unique("fake", 0), elsewhere: DeviceId::unique("fake", 1) }
    }

    fn make(&self, name: &str, mut shape: Vec<usize>, dtype: DType) -> Fake {
        let (mut dtype, mut device) = (dtype, self.here);
        match self.damage {
            Damage::Shape(n) if n == name => *shape.last_mut().unwrap() += 1,
            Damage::DType(n) if n == name => {
                dtype = if dtype == DType::U32 { DType::F16 } else { DType::U32 };
            }
            Damage::Device(n) if n == name => device = self.elsewhere,
            _ => {}
        }
        Fake { shape, dtype, device }
    }

    fn f(&self, name: &str, rows: usize, cols: usize) -> Fake {
        self.make(name, vec![rows, cols], DType::F32)
    }

    fn u(&self, name: &str, n: usize) -> Fake {
        self.make(name, vec![n], DType::U32)
    }
}

/// Runs `case` undamaged, and then with each operand damaged in each way.
fn refuses(operands: &[&'static str], case: impl Fn(&Maker) -> Result<()>) {
    case(&Maker::new(Damage::None)).unwrap();
    for name in operands {
        for damage in [Damage::Shape(name), Damage::DType(name), Damage::Device(name)] {
            let error = case(&Maker::new(damage)).expect_err(name);
            let right = match (&error, damage) {
                (Error::Shape { .. }, Damage::Shape(_)) => true,
                (Error::DType { operand, .. }, Damage::DType(_)) => operand == name || *name == "src",
                (Error::Device { .. }, Damage::Device(_)) => true,
                _ => false,
            };
            assert!(right, "{name}: {error}");
        }
    }
}

fn done<O>(checked: Result<Checked<O>>) -> Result<()> {
    checked.map(drop)
}

const HEADS: Heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 8 };

#[test]
fn matmul() {
    refuses(&["x", "w", "out"], |m| {
        let (x, w, mut out) = (m.f("x", 2, 3), m.f("w", 5, 3), m.f("out", 2, 5));
        let (x, w, out) = (Mat::new(&x), Mat::new(&w), MatMut::new(&mut out));
        done(Matmul { x, w, out, accumulate: false, layout: WeightLayout::OutIn }.check())
    });
    refuses(&["x", "w", "out"], |m| {
        let (x, w, mut out) = (m.f("x", 2, 3), m.f("w", 3, 5), m.f("out", 2, 5));
        let (x, w, out) = (Mat::new(&x), Mat::new(&w), MatMut::new(&mut out));
        done(Matmul { x, w, out, accumulate: false, layout: WeightLayout::InOut }.check())
    });
}

#[test]
fn rowwise() {
    refuses(&["x", "weight", "out"], |m| {
        let (x, w, mut out) = (m.f("x", 2, 3), m.f("weight", 1, 3), m.f("out", 2, 3));
        let io = Io::Into(Mat::new(&x), MatMut::new(&mut out));
        done(RmsNorm { io, weight: Mat::new(&w), eps: 1e-5 }.check())
    });
    for eps in [f32::NAN, -1.0, f32::INFINITY] {
        let m = Maker::new(Damage::None);
        let (mut x, w) = (m.f("x", 2, 3), m.f("weight", 1, 3));
        let op = RmsNorm { io: Io::InPlace(MatMut::new(&mut x)), weight: Mat::new(&w), eps };
        assert!(matches!(op.check(), Err(Error::Argument { name: "eps", .. })));
    }
    refuses(&["x", "out"], |m| {
        let (x, mut out) = (m.f("x", 2, 3), m.f("out", 2, 3));
        done(Softmax { io: Io::Into(Mat::new(&x), MatMut::new(&mut out)) }.check())
    });
    refuses(&["x", "out"], |m| {
        let (x, mut out) = (m.f("x", 2, 3), m.f("out", 2, 3));
        done(Silu { io: Io::Into(Mat::new(&x), MatMut::new(&mut out)) }.check())
    });
    refuses(&["x", "y", "out"], |m| {
        let (x, y, mut out) = (m.f("x", 2, 3), m.f("y", 2, 3), m.f("out", 2, 3));
        done(Add { io: Io::Into(Mat::new(&x), MatMut::new(&mut out)), y: Mat::new(&y) }.check())
    });
    refuses(&["x", "y", "out"], |m| {
        let (x, y, mut out) = (m.f("x", 2, 3), m.f("y", 2, 3), m.f("out", 2, 3));
        done(Mul { io: Io::Into(Mat::new(&x), MatMut::new(&mut out)), y: Mat::new(&y) }.check())
    });
}

#[test]
fn apply_rope() {
    refuses(&["x", "cos", "sin", "positions", "out"], |m| {
        let (x, cos, sin) = (m.f("x", 2, 16), m.f("cos", 9, 4), m.f("sin", 9, 4));
        let (positions, mut out) = (m.u("positions", 2), m.f("out", 2, 16));
        let at = At { positions: Mat::vector(&positions), first: None, distinct: false };
        let io = Io::Into(Mat::new(&x), MatMut::new(&mut out));
        done(ApplyRope { io, cos: Mat::new(&cos), sin: Mat::new(&sin), at, head_dim: 8 }.check())
    });
}

#[test]
fn attention_parts() {
    for (heads, q, kv) in [(Heads::single(8), 8, 8), (HEADS, 32, 16), (Heads { head_dim: 3, ..HEADS }, 12, 6)]
    {
        let n = heads.n_heads;
        refuses(&["q", "k", "out"], |m| {
            let (q, k, mut out) = (m.f("q", 2, q), m.f("k", 5, kv), m.f("out", 2 * n, 5));
            let (q, k, out) = (Mat::new(&q), Mat::new(&k), MatMut::new(&mut out));
            done(ComputeAttentionScores { q, k, heads, scale: 1.0, out }.check())
        });
        refuses(&["weights", "rows", "out"], |m| {
            let (weights, rows, mut out) = (m.f("weights", 2 * n, 5), m.f("rows", 5, kv), m.f("out", 2, q));
            let (weights, rows, out) = (Mat::new(&weights), Mat::new(&rows), MatMut::new(&mut out));
            done(WeightedSumRows { weights, rows, heads, out }.check())
        });
    }
}

/// Checks both products of heads with `rows` rows and 5 keys, operands as large as the heads say where that can be counted.
fn products_of(heads: Heads, rows: usize) -> [Result<()>; 2] {
    let m = Maker::new(Damage::None);
    let dim = |n: usize| n.wrapping_mul(heads.head_dim);
    let (q, k) = (m.f("q", rows, dim(heads.n_heads)), m.f("k", 5, dim(heads.n_kv_heads)));
    let of_heads = rows.wrapping_mul(heads.n_heads);
    let (mut scores, mut sums) = (m.f("scores", of_heads, 5), m.f("out", rows, dim(heads.n_heads)));
    let out = MatMut::new(&mut scores);
    let product = ComputeAttentionScores { q: Mat::new(&q), k: Mat::new(&k), heads, scale: 1.0, out };
    let product = done(product.check());
    let (weights, out) = (Mat::new(&scores), MatMut::new(&mut sums));
    [product, done(WeightedSumRows { weights, rows: Mat::new(&k), heads, out }.check())]
}

#[test]
fn products_of_heads_take_any_head_dim_and_even_groups() {
    let heads = |n_heads, n_kv_heads, head_dim| Heads { n_heads, n_kv_heads, head_dim };
    for (heads, rows) in
        [(heads(6, 2, 0), 3), (heads(6, 2, 7), 3), (heads(1, 1, 1 << 21), 1), (heads(6, 2, 7), 0)]
    {
        products_of(heads, rows).into_iter().for_each(|checked| checked.unwrap());
    }
    let half = usize::MAX / 2 + 1;
    for (heads, rows) in [
        (heads(5, 2, 8), 2),
        (heads(2, 4, 8), 2),
        (heads(4, 0, 8), 2),
        (heads(0, 1, 8), 2),
        (heads(0, 0, 8), 2),
        (heads(2, 1, half), 2),
        (heads(2, 1, 0), half),
    ] {
        for checked in products_of(heads, rows) {
            assert!(matches!(checked, Err(Error::Argument { name: "heads", .. })), "{heads:?}: {checked:?}");
        }
    }
}

#[test]
fn lookups() {
    refuses(&["table", "ids", "out"], |m| {
        let (table, ids, mut out) = (m.f("table", 9, 4), m.u("ids", 2), m.f("out", 2, 4));
        let (table, ids, out) = (Mat::new(&table), Mat::vector(&ids), MatMut::new(&mut out));
        done(Embed { table, ids, out }.check())
    });
    refuses(&["src", "dst", "positions"], |m| {
        let (src, mut dst, positions) = (m.f("src", 2, 4), m.f("dst", 9, 4), m.u("positions", 2));
        let at = At { positions: Mat::vector(&positions), first: None, distinct: false };
        done(AppendRows { src: Mat::new(&src), dst: MatMut::new(&mut dst), at }.check())
    });
    refuses(&["id", "position"], |m| {
        let (logits, mut id, mut position) = (m.f("logits", 2, 9), m.u("id", 2), m.u("position", 2));
        let position = Some(MatMut::vector(&mut position));
        done(Argmax { logits: Mat::new(&logits), id: MatMut::vector(&mut id), position }.check())
    });
    refuses(&["id", "position"], |m| {
        let (logits, mut history) = (m.f("logits", 1, 9), m.u("history", 5));
        let (mut id, mut position) = (m.u("id", 1), m.u("position", 1));
        let params = SampleParams::default();
        let (id, position) = (MatMut::vector(&mut id), MatMut::vector(&mut position));
        done(
            Sample { logits: Mat::new(&logits), history: MatMut::vector(&mut history), id, position, params }
                .check(),
        )
    });
}

#[test]
fn fused_attention() {
    refuses(&["q", "k", "v", "positions", "out", "scratch"], |m| {
        let (q, k, v) = (m.f("q", 2, 32), m.f("k", 9, 16), m.f("v", 9, 16));
        let (positions, mut out, mut scratch) =
            (m.u("positions", 2), m.f("out", 2, 32), m.f("scratch", 4, 9));
        let at = At { positions: Mat::vector(&positions), first: None, distinct: false };
        done(
            Attention {
                q: Mat::new(&q),
                k: Mat::new(&k),
                v: Mat::new(&v),
                heads: HEADS,
                window: None,
                at,
                out: MatMut::new(&mut out),
                scratch: MatMut::new(&mut scratch),
            }
            .check(),
        )
    });
    refuses(&["x", "norm", "w", "cos", "sin", "positions", "qkv", "k", "v", "scratch"], |m| {
        let (x, norm, w) = (m.f("x", 2, 7), m.f("norm", 1, 7), m.f("w", 64, 7));
        let (cos, sin, positions) = (m.f("cos", 9, 4), m.f("sin", 9, 4), m.u("positions", 2));
        let (mut qkv, mut k, mut v) = (m.f("qkv", 2, 64), m.f("k", 9, 16), m.f("v", 9, 16));
        let mut scratch = m.f("scratch", 2, 7);
        let at = At { positions: Mat::vector(&positions), first: None, distinct: false };
        done(
            NormQkvRopeAppend {
                x: Mat::new(&x),
                norm: Mat::new(&norm),
                eps: 1e-5,
                w: Mat::new(&w),
                heads: HEADS,
                cos: Mat::new(&cos),
                sin: Mat::new(&sin),
                at,
                qkv: MatMut::new(&mut qkv),
                k: MatMut::new(&mut k),
                v: MatMut::new(&mut v),
                scratch: MatMut::new(&mut scratch),
            }
            .check(),
        )
    });
    refuses(&["x", "norm", "w", "out", "scratch", "gate_up"], |m| {
        let (x, norm, w) = (m.f("x", 2, 7), m.f("norm", 1, 7), m.f("w", 10, 7));
        let (mut out, mut scratch, mut gate_up) =
            (m.f("out", 2, 5), m.f("scratch", 2, 7), m.f("gate_up", 2, 10));
        done(
            NormSwiglu {
                x: Mat::new(&x),
                norm: Mat::new(&norm),
                eps: 1e-5,
                w: Mat::new(&w),
                out: MatMut::new(&mut out),
                scratch: MatMut::new(&mut scratch),
                gate_up: MatMut::new(&mut gate_up),
            }
            .check(),
        )
    });
}

#[test]
fn windows_must_lie_inside() {
    let m = Maker::new(Damage::None);
    let t = m.f("t", 4, 6);
    assert_eq!(Mat::new(&t).sub(1..3, 2..5).unwrap().window().offset, 8);
    for (rows, cols) in [(0..5, 0..6), (0..4, 0..7), (0..4, 6..7)] {
        assert!(matches!(Mat::new(&t).sub(rows, cols), Err(Error::Shape { op: "window", .. })));
    }
    assert!(
        Mat::new(&t).cols(0..3).unwrap().reshaped(2, 6).is_err(),
        "a window with gaps has no other shape"
    );
    assert_eq!(Mat::new(&t).reshaped(8, 3).unwrap().n_rows(), 8);
}

#[test]
fn a_checked_operation_runs_only_where_its_tensors_are() {
    let m = Maker::new(Damage::None);
    let mut x = m.f("x", 1, 3);
    let op = Silu { io: Io::InPlace(MatMut::new(&mut x)) }.check().unwrap();
    assert!(matches!(op.on(m.elsewhere), Err(Error::Device { op: "silu", .. })));
}

#[test]
fn costs_count_every_operand_once() {
    let m = Maker::new(Damage::None);
    let (x, w, mut out) = (m.f("x", 2, 3), m.f("w", 5, 3), m.f("out", 2, 5));
    let (x, w, out) = (Mat::new(&x), Mat::new(&w), MatMut::new(&mut out));
    let op = Matmul { x, w, out, accumulate: false, layout: WeightLayout::OutIn };
    assert_eq!((op.bytes(), op.flops()), (4 * (6 + 15 + 10), 2 * 2 * 3 * 5));
}

#[test]
fn costs_of_heads_count_shared_keys_once() {
    let m = Maker::new(Damage::None);
    let (q, k, mut out) = (m.f("q", 3, 32), m.f("k", 5, 16), m.f("out", 12, 5));
    let (q, k, out) = (Mat::new(&q), Mat::new(&k), MatMut::new(&mut out));
    let op = ComputeAttentionScores { q, k, heads: HEADS, scale: 1.0, out };
    assert_eq!((op.bytes(), op.flops()), (4 * (96 + 80 + 60), 2 * 3 * 4 * 5 * 8));
    let (weights, rows, mut out) = (m.f("weights", 12, 5), m.f("rows", 5, 16), m.f("out", 3, 32));
    let (weights, rows, out) = (Mat::new(&weights), Mat::new(&rows), MatMut::new(&mut out));
    let op = WeightedSumRows { weights, rows, heads: HEADS, out };
    assert_eq!((op.bytes(), op.flops()), (4 * (60 + 80 + 96), 2 * 3 * 4 * 5 * 8));
}
