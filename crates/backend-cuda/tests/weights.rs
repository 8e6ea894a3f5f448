//! `kernels/sample.cuh` divides by 1 ..= 14 with a rounded reciprocal and one correction; the bits are those of a division.

use backend_api::ops::weight;

/// As the kernel divides.
fn divided(a: f64, k: f64) -> f64 {
    let reciprocal = 1.0 / k;
    let q = a * reciprocal;
    (-q).mul_add(k, a).mul_add(reciprocal, q)
}

/// As the kernel weighs.
fn weight_of(x: f32) -> u64 {
    let y = f64::from(x) * std::f64::consts::LOG2_E;
    let whole = y.floor();
    if whole.is_nan() || whole < -41.0 {
        return 0;
    }
    let t = (y - whole) * std::f64::consts::LN_2;
    let series = (1..=14).rev().fold(1.0, |series, k| 1.0 + divided(series * t, f64::from(k)));
    ((series * 1_099_511_627_776.0) as u64) >> (-whole) as u32
}

#[test]
fn corrected_quotients_are_quotients() {
    let mut bits = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..1_000_000 {
        bits = bits.wrapping_mul(0xd129_0d3a_33f6_8a1d).wrapping_add(1);
        let a = f64::from_bits((1 << 62) - (1 << 57) + (bits >> 6));
        for k in 1..=14 {
            let k = f64::from(k);
            assert_eq!(divided(a, k).to_bits(), (a / k).to_bits(), "{a:e} / {k}");
        }
    }
}

#[test]
fn the_kernel_weighs_as_the_contract_does() {
    for i in 0..2_000_000u32 {
        let x = -(i as f32) * 1.5e-5;
        assert_eq!(weight_of(x), weight(x), "{x}");
    }
    for x in [0.0, -0.0, f32::NEG_INFINITY, f32::NAN, -1e30, -28.4, -28.5] {
        assert_eq!(weight_of(x), weight(x), "{x}");
    }
}
