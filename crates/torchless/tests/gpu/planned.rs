//! What is said beforehand of memory and kernels, against what a run takes.

use std::collections::BTreeSet;

use torchless::{CudaBackend, DType, KernelBackend, ModelShape, OnBackend, WeightDtype};

use crate::common::{answer, mistral, random, request};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_estimate_is_the_high_water_mark() {
    let small = ModelShape::named("llama-3.2-1b").unwrap();
    let odd =
        ModelShape { hidden_size: 2056, head_dim: 40, n_layers: 5, vocab_size: 50_000, ..small.clone() };
    let one_head = ModelShape { n_kv_heads: 1, n_layers: 2, ..small.clone() };
    let long_heads = ModelShape { n_heads: 8, n_kv_heads: 2, head_dim: 320, n_layers: 2, ..small.clone() };
    let [f32, f16, bf16] = [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16];
    let (ampere, oldest) = (Some((8, 0)), Some((5, 0)));
    for (name, shape, types, context, chunk, target) in [
        ("mistral", mistral(4), [bf16; 2], 5000, 2048, None),
        ("mistral, f16", mistral(4), [f16; 2], 9000, 512, None),
        ("mistral, f16 cache", mistral(3), [bf16, f16], 5000, 2048, None),
        ("mistral on 8.0", mistral(4), [bf16; 2], 5000, 2048, ampere),
        ("mistral on 5.0", mistral(4), [bf16; 2], 5000, 300, oldest),
        ("odd", odd, [f16; 2], 1333, 700, None),
        ("small", small, [f32; 2], 1025, 512, None),
        ("long heads", long_heads, [bf16; 2], 5000, 512, None),
        ("one key head", one_head, [f32; 2], 9000, 512, None),
    ] {
        for blas in [true, false] {
            let builder = CudaBackend::builder().blas(blas);
            let backend = match target.map(|target| builder.clone().kernel_target(target).build()) {
                None => builder.build().unwrap(),
                Some(Ok(backend)) => backend,
                Some(Err(older)) => {
                    println!("{name}: {older}");
                    continue;
                }
            };
            let want = request(&shape, types, context, chunk).estimate_on(&OnBackend(&backend)).unwrap();
            let model = random(backend, shape.clone(), types.map(stored), chunk);
            answer(&model, context, chunk + 100, 8);
            let got = model.backend().memory().high_water;
            let ratio = want.total() as f64 / got as f64;
            let what = format!("{name}, cuBLAS {blas}: estimated {}, held {got}: {ratio:.5}", want.total());
            println!("{what}");
            assert!((ratio - 1.0).abs() < 0.01, "{what}");
        }
    }
}

fn stored(dtype: WeightDtype) -> DType {
    match dtype {
        WeightDtype::F32 => DType::F32,
        WeightDtype::F16 => DType::F16,
        _ => DType::BF16,
    }
}

/// Kernels that take any shape on any card, and have a faster twin.
const PORTABLE: [&str; 3] = ["attention", "matmul", "matmul_few"];

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn slow_paths_are_those_that_are_launched() {
    let base = ModelShape { n_layers: 2, vocab_size: 1000, ..ModelShape::named("llama-3.2-1b").unwrap() };
    let heads = |n_heads, n_kv_heads, head_dim| ModelShape { n_heads, n_kv_heads, head_dim, ..base.clone() };
    let [f32, f16, bf16] = [DType::F32, DType::F16, DType::BF16];
    let shapes = [
        (base.clone(), [bf16, bf16]),
        (base.clone(), [f32, f32]),
        (base.clone(), [bf16, f16]),
        (base.clone(), [f32, bf16]),
        (heads(12, 1, 40), [f16, f16]),
        (heads(7, 7, 96), [bf16, bf16]),
        (heads(8, 2, 256), [bf16, bf16]),
        (heads(8, 2, 36), [bf16, bf16]),
        (heads(8, 2, 6), [f16, f16]),
        (heads(2, 2, 320), [f32, f32]),
        (heads(2, 2, 320), [bf16, bf16]),
        (ModelShape { hidden_size: 2052, ..base.clone() }, [bf16, bf16]),
        (ModelShape { intermediate_size: 5003, ..base.clone() }, [f16, f16]),
        (ModelShape { intermediate_size: 28_672, ..base.clone() }, [f32, f32]),
        (ModelShape { hidden_size: 512, intermediate_size: 53_248, ..base.clone() }, [bf16, bf16]),
    ];
    for (shape, types) in shapes {
        for target in [(9, 0), (8, 0), (5, 0)] {
            for blas in [true, false] {
                let backend = CudaBackend::builder().kernel_target(target).blas(blas).build().unwrap();
                let model = random(backend, shape.clone(), types, 64);
                answer(&model, 128, 64, 4);
                let slow = model.backend().slow_paths(&model.workload(128));
                let launched = model.backend().launched_kernels();
                let launched: BTreeSet<_> = launched.into_iter().filter(|k| PORTABLE.contains(k)).collect();
                let said: BTreeSet<_> =
                    slow.iter().map(|path| path.instead).filter(|k| PORTABLE.contains(k)).collect();
                let what = format!("{shape:?} {types:?} on {target:?}, cuBLAS {blas}: {slow:#?}");
                assert_eq!(said, launched, "{what}");
                for fused in ["norm_qkv_rope_append", "norm_swiglu"] {
                    let composed = slow.iter().any(|path| path.op == fused && path.of == "token");
                    let ran = model.backend().launched_kernels().contains(&fused);
                    assert_eq!(composed, !ran, "{fused}: {what}");
                }
            }
        }
    }
}
