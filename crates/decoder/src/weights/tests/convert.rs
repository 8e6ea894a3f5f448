//! Elements of one type read as another.

use backend_api::f16;

use super::*;

/// More elements than two pieces of a conversion take, and not a multiple of anything.
const N: usize = (1 << 18) + 12_345;

/// Every kind of f32: random bits, which include subnormals, infinities and NaN, and values of the size of weights.
fn values() -> Vec<f32> {
    (0..N as u64)
        .map(|i| {
            let [bits, small, ..] = backend_api::random::philox(11, i);
            if i % 2 == 0 { f32::from_bits(bits) } else { (f64::from(small) / 2f64.powi(33) - 0.25) as f32 }
        })
        .collect()
}

/// One tensor `t` that stores `values` rounded to `dtype`.
fn stored(dtype: DType, values: &[f32]) -> Weights {
    let data: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let name = dtype.name().to_uppercase();
    parse(file(&header(&[entry("t", &name, &values.len().to_string(), 0, data.len() as u64)]), &data))
        .unwrap()
}

/// Little-endian bytes of `x`, an exact value of `from`, rounded to `to`; `None` for NaN.
fn rounded(x: f32, from: DType, to: DType) -> Option<Vec<u8>> {
    let x = match from {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    };
    let bytes = match to {
        DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    (!x.is_nan()).then_some(bytes)
}

fn is_nan(bytes: &[u8], dtype: DType) -> bool {
    match dtype {
        DType::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        DType::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
        _ => f32::from_le_bytes(bytes.try_into().unwrap()).is_nan(),
    }
}

#[test]
fn every_pair_of_types_rounds_each_element_to_nearest() {
    let values = values();
    for from in DType::FLOATS {
        let weights = stored(from, &values);
        for to in DType::FLOATS {
            let size = to.block_bytes();
            let mut out = vec![0; N * size];
            weights.read("t", to, 0, &mut out).unwrap();
            for (i, (bytes, &x)) in out.chunks(size).zip(&values).enumerate() {
                match rounded(x, from, to) {
                    Some(expected) => assert_eq!(bytes, expected, "{from} to {to}: element {i}, {x:e}"),
                    None => assert!(is_nan(bytes, to), "{from} to {to}: element {i}"),
                }
            }
        }
    }
}

#[test]
fn ties_go_to_the_even_neighbour() {
    let bf16_ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
    let weights = stored(DType::F32, &bf16_ties);
    let mut out = [0; 4];
    weights.read("t", DType::BF16, 0, &mut out).unwrap();
    assert_eq!(out, [0x80, 0x3f, 0x82, 0x3f]);
    let weights = stored(DType::F32, &[1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0]);
    weights.read("t", DType::F16, 0, &mut out).unwrap();
    assert_eq!(out, [0x00, 0x3c, 0x02, 0x3c]);
}

#[test]
fn pieces_make_the_whole_wherever_they_are_cut_and_lie() {
    let values = values();
    for (from, to) in [
        (DType::F32, DType::BF16),
        (DType::BF16, DType::F32),
        (DType::F16, DType::BF16),
        (DType::F16, DType::F16),
    ] {
        let weights = stored(from, &values);
        let size = to.block_bytes();
        let mut whole = vec![0; N * size];
        weights.read("t", to, 0, &mut whole).unwrap();
        // One byte ahead: no element of the buffer is aligned.
        let mut pieces = vec![0; N * size + 1];
        for (i, piece) in pieces[1..].chunks_mut(70_001 * size).enumerate() {
            weights.read("t", to, i * 70_001 * size, piece).unwrap();
        }
        assert!(pieces[1..] == whole[..], "{from} to {to}");
    }
}

#[test]
fn threads_read_at_the_same_time() {
    let values: Vec<f32> = (0..10_000u16).map(f32::from).collect();
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let dir =
        folder(&[("model.safetensors", &file(&header(&[entry("t", "F32", "10000", 0, 40_000)]), &data))]);
    let weights = Weights::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (weights, values) = (&weights, &values);
            scope.spawn(move || {
                for i in 0..2_000 {
                    let first = (i * 37 + thread * 1009) % 9_990;
                    let mut out = [0f32; 10];
                    weights.read("t", DType::F32, first * 4, bytemuck::cast_slice_mut(&mut out)).unwrap();
                    assert_eq!(out, values[first..first + 10]);
                }
            });
        }
    });
}
