//! What a decoder will take of a card, told from sizes alone: memory beside its tensors, and kernels.
//!
//! The conditions are those of `fused.rs`, `heads.rs`, `prefill.rs`, `products.rs` and `tensor_cores.rs`, for operands that lie as
//! a decoder's do; a test on a GPU compares them with what is launched.

use std::collections::BTreeSet;

use backend_api::ops::{Attention, Matmul, NormQkvRopeAppend, NormSwiglu};
use backend_api::{DType, Op, SlowPath, Workload};

use crate::backend::COUNTERS;
use crate::blas::FEW;
use crate::kernels::archive::Target;
use crate::kernels::{attention, attention_mma, matmul, matmul_mma, sample, weighted_sum_rows as sums};
use crate::launch::longest_row;
use crate::ops::is_half;
use crate::{CudaBackend, CudaTensor, prefill};

/// What of a card decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) target: Target,
    pub(crate) multiprocessors: u32,
    /// Bytes of shared memory that a launch can give a block.
    pub(crate) shared_memory: u32,
    /// Bytes that the library for products works in, where there is one and the decoder calls it.
    pub(crate) library: Option<u64>,
}

/// Rows of a prompt from which on products are not made a row at a time.
const MANY: usize = 2;

impl Card {
    pub(crate) fn of(b: &CudaBackend, workload: &Workload) -> Self {
        let (inner, device) = (&*b.inner, &b.inner.device);
        let (multiprocessors, shared_memory) = (device.multiprocessors, device.shared_memory);
        let calls = calls_library(shared_memory, workload);
        let library = calls.then(|| inner.blas.workspace(device, &inner.pool)).flatten();
        Self { target: device.target, multiprocessors, shared_memory, library }
    }

    /// Elements of a row of this type that a block can keep in shared memory.
    fn longest_row(&self, dtype: DType) -> usize {
        longest_row(self.shared_memory, dtype)
    }
}

/// Whether the decoder calls the library for products where there is one.
pub(crate) fn calls_library(shared_memory: u32, w: &Workload) -> bool {
    w.activations == w.weights && (w.rows >= MANY || not_streamed(shared_memory, w).is_some())
}

/// Bytes of each block of memory that the backend keeps beside tensors while such a decoder runs.
pub(crate) fn held(card: &Card, w: &Workload) -> impl Iterator<Item = u64> {
    // Scratch grows by powers of two, and what was given once stays.
    let scratch = scratch(card, w).into_iter().filter(|bytes| *bytes > 0);
    let scratch: BTreeSet<u64> = scratch.map(u64::next_power_of_two).collect();
    let row = 4 * w.heads.q_dim() as u64;
    let wide: &[u64] = if composed_of(w) == Some(WIDE) { &[row, row] } else { &[] };
    scratch.into_iter().chain([4 * COUNTERS as u64]).chain(card.library).chain(wide.to_vec())
}

/// What attention is composed of where heads are longer than any of its kernels takes.
fn composed_of(w: &Workload) -> Option<&'static str> {
    let in_f32 = w.cache != w.weights || w.activations == DType::F32;
    let operations = if in_f32 { "compute_attention_scores, softmax, weighted_sum_rows" } else { WIDE };
    (w.heads.head_dim > attention::MOST_HEAD_DIM).then_some(operations)
}

/// Beside activations of 16 bits, which are widened and rounded.
const WIDE: &str = "embed, compute_attention_scores, softmax, weighted_sum_rows, append_rows";

/// Bytes of scratch of each operation that takes some.
fn scratch(card: &Card, w: &Workload) -> Vec<u64> {
    let (heads, multiprocessors) = (w.heads, card.multiprocessors);
    let parts = (multiprocessors, card.target.capability >= (9, 0));
    let keys = w.window.map_or(w.context, |window| window.min(w.context)) as u64;
    let (kv, group) = (heads.n_kv_heads as u64, heads.group() as u64);
    let choice = 8 * sample::SPACE as u64 + 12 * w.vocab_size as u64;
    let mut all = vec![choice];
    if composed_of(w).is_some() {
        // As many parts as there are keys for, more and more of them.
        let of =
            |parts| sums::Division::new(1, 256 * parts, kv, group, heads.head_dim as u64, multiprocessors);
        all.extend((1..=keys.div_ceil(256).min(64)).map(|parts| 4 * of(parts).partials() as u64));
    } else if attention_of_token(card, w).is_none() {
        let division = attention_mma::division(1, kv, group, keys, parts);
        all.push(4 * attention_mma::partials(division) as u64);
    } else {
        all.push(4 * attention::partials(attention::division(1, kv, group, keys, parts)) as u64);
    }
    if by_mma(card, w) {
        all.push(4 * matmul_mma::parts(multiprocessors) as u64);
    }
    if by_tiles(card, w) {
        all.push(4 * matmul::parts(multiprocessors) as u64);
    }
    all
}

/// Whether kernels for `mma.sync`, whose blocks share tiles, compute products.
fn by_mma(card: &Card, w: &Workload) -> bool {
    let alone = card.library.is_none() && w.activations == w.weights && card.target != Target::HOPPER;
    let takes = |(_, _, k): (_, _, usize)| k.is_multiple_of(8);
    let called = w.rows >= MANY || not_streamed(card.shared_memory, w).is_some();
    alone && called && no_tensor_cores(card, w.weights).is_none() && products(w).any(takes)
}

/// Whether the portable kernel, whose blocks share tiles, computes products of a prompt.
fn by_tiles(card: &Card, w: &Workload) -> bool {
    w.rows as u64 > FEW && product_of_prompt(card, w).is_some()
}

/// Name, outputs and inputs of the products of a layer.
fn products(w: &Workload) -> impl Iterator<Item = (&'static str, usize, usize)> + use<> {
    let (hidden, ffn, heads) = (w.hidden_size, w.intermediate_size, w.heads);
    [
        ("hidden size", heads.qkv_dim(), hidden),
        ("width of the query heads", hidden, heads.q_dim()),
        ("hidden size", 2 * ffn, hidden),
        ("intermediate size", hidden, ffn),
    ]
    .into_iter()
}

/// The operations of a decoder that take other than the fastest kernels.
pub(crate) fn slow_paths(card: &Card, w: &Workload) -> Vec<SlowPath> {
    const ATTENTION: &str = Attention::<CudaTensor>::NAME;
    const MATMUL: &str = Matmul::<CudaTensor>::NAME;
    const TOKEN: &str = "token";
    const PROMPT: &str = "prompt";
    let portable = composed_of(w).unwrap_or(Attention::<CudaTensor>::NAME);
    let found = [
        (
            NormQkvRopeAppend::<CudaTensor>::NAME,
            TOKEN,
            front(card, w),
            "rmsnorm, matmul, apply_rope, append_rows",
        ),
        (ATTENTION, TOKEN, attention_of_token(card, w), portable),
        (NormSwiglu::<CudaTensor>::NAME, TOKEN, row(card, w), "rmsnorm, matmul, swiglu"),
        (MATMUL, TOKEN, product_of_token(card, w), few_or_tensor_cores(card, w)),
        (ATTENTION, PROMPT, attention_of_prompt(card, w), portable),
        (MATMUL, PROMPT, product_of_prompt(card, w), "matmul"),
    ];
    let slow = found.into_iter().filter(|(_, of, ..)| *of == TOKEN || w.rows >= MANY);
    slow.filter_map(|(op, of, why, instead)| Some(SlowPath::new(op, of, why?, instead))).collect()
}

/// Why the residual stream's row is not normed inside the product that follows.
fn row(card: &Card, w: &Workload) -> Option<String> {
    let longest = card.longest_row(DType::F32);
    if w.activations != w.weights {
        return Some(mixture("activations", w.activations, w));
    }
    no_multiple("hidden size", w.hidden_size, 8)
        .or_else(|| above("hidden size", w.hidden_size, longest / 8 * 8))
}

fn front(card: &Card, w: &Workload) -> Option<String> {
    if w.cache != w.weights {
        return Some(mixture("a cache", w.cache, w));
    }
    row(card, w).or_else(|| no_multiple("head_dim", w.heads.head_dim, 4))
}

/// Why attention does not run on tensor cores, where heads may have up to `most` elements.
fn off_tensor_cores(card: &Card, w: &Workload, most: usize) -> Option<String> {
    let head_dim = w.heads.head_dim;
    if w.cache != w.weights {
        return Some(mixture("a cache", w.cache, w));
    }
    if w.activations != w.cache {
        return Some(mixture("activations", w.activations, w));
    }
    no_tensor_cores(card, w.cache)
        .or_else(|| no_multiple("head_dim", head_dim, 8))
        .or_else(|| above("head_dim", head_dim, most))
}

fn attention_of_token(card: &Card, w: &Workload) -> Option<String> {
    off_tensor_cores(card, w, attention_mma::MOST_HEAD_DIM)
}

fn attention_of_prompt(card: &Card, w: &Workload) -> Option<String> {
    off_tensor_cores(card, w, prefill::MOST_HEAD_DIM)
}

fn product_of_token(card: &Card, w: &Workload) -> Option<String> {
    // Attention in f32 leaves a product with weights of another type.
    let mixed = w.activations != w.weights || (w.cache != w.weights && w.weights != DType::F32);
    not_streamed(card.shared_memory, w).filter(|_| mixed || card.library.is_none())
}

/// Why the kernel for one row does not take all products of a token.
fn not_streamed(shared_memory: u32, w: &Workload) -> Option<String> {
    let longest = longest_row(shared_memory, w.activations);
    // The rows that the fused kernels stage are of f32 and looked at by `row`; the last one, before the logits, is not.
    products(w).find_map(|(name, _, k)| no_multiple(name, k, 8).or_else(|| above(name, k, longest / 8 * 8)))
}

/// What computes products of a token that are not streamed, without the library: tensor cores, if all that is wrong is that
/// rows are long.
fn few_or_tensor_cores(card: &Card, w: &Workload) -> &'static str {
    match product_of_prompt(card, w) {
        Some(_) => "matmul_few",
        None if card.target == Target::HOPPER => "matmul_wgmma",
        None => "matmul_mma",
    }
}

fn product_of_prompt(card: &Card, w: &Workload) -> Option<String> {
    if w.activations != w.weights {
        return Some(mixture("activations", w.activations, w));
    }
    if w.cache != w.weights && w.weights != DType::F32 {
        return Some(format!("attention in f32, for {}", mixture("a cache", w.cache, w)));
    }
    if card.library.is_some() {
        return None;
    }
    no_tensor_cores(card, w.weights)
        .map(|why| format!("{why}, and no cuBLASLt"))
        .or_else(|| products(w).find_map(|(name, _, k)| no_multiple(name, k, 8)))
}

fn no_tensor_cores(card: &Card, dtype: DType) -> Option<String> {
    let (major, minor) = card.target.capability;
    if !is_half(dtype) {
        return Some(format!("{dtype} is not for tensor cores"));
    }
    (card.target.capability < (8, 0)).then(|| format!("kernels for compute capability {major}.{minor}"))
}

fn no_multiple(name: &str, size: usize, of: usize) -> Option<String> {
    (!size.is_multiple_of(of)).then(|| format!("{name} {size} is no multiple of {of}"))
}

fn above(name: &str, size: usize, most: usize) -> Option<String> {
    (size > most).then(|| format!("{name} {size} is above {most}"))
}

fn mixture(what: &str, dtype: DType, w: &Workload) -> String {
    format!("{what} in {dtype} beside weights in {}", w.weights)
}

#[cfg(test)]
mod tests {
    use conformance::mistral;

    use super::*;

    const H200: Card = Card {
        target: Target::HOPPER,
        multiprocessors: 132,
        shared_memory: 226 << 10,
        library: Some(32 << 20),
    };

    fn shown(card: &Card, w: &Workload) -> Vec<String> {
        slow_paths(card, w).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_shapes_that_kernels_are_made_for_take_them() {
        for dtype in [DType::F16, DType::BF16] {
            assert_eq!(shown(&H200, &mistral(dtype)), [""; 0]);
            assert_eq!(shown(&Card { library: None, ..H200 }, &mistral(dtype)), [""; 0]);
        }
        let why = "f32 is not for tensor cores -> attention";
        assert_eq!(
            shown(&H200, &mistral(DType::F32)),
            [format!("attention of a token: {why}"), format!("attention of a prompt: {why}")]
        );
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let of = |change: &dyn Fn(&mut Workload)| {
            let mut w = mistral(DType::BF16);
            change(&mut w);
            shown(&H200, &w)
        };
        assert_eq!(
            of(&|w| w.heads.head_dim = 256),
            ["attention of a token: head_dim 256 is above 128 -> attention"]
        );
        let why = "head_dim 264 is above";
        let operations = "embed, compute_attention_scores, softmax, weighted_sum_rows, append_rows";
        let want = [
            format!("attention of a token: {why} 128 -> {operations}"),
            format!("attention of a prompt: {why} 256 -> {operations}"),
        ];
        assert_eq!(of(&|w| w.heads.head_dim = 264), want);
        let in_f32 = of(&|w| (w.heads.head_dim, w.cache) = (264, DType::F32));
        let attention: Vec<_> = in_f32.iter().filter(|s| s.starts_with("attention")).collect();
        let composed = |s: &str| s.ends_with("-> compute_attention_scores, softmax, weighted_sum_rows");
        assert!(attention.len() == 2 && attention.iter().all(|s| composed(s)), "{in_f32:?}");
        let odd = of(&|w| w.hidden_size = 4100);
        assert_eq!(odd.len(), 2, "{odd:?}");
        let mut alone = mistral(DType::BF16);
        alone.hidden_size = 4100;
        let by_own = shown(&Card { library: None, ..H200 }, &alone);
        assert_eq!(by_own.len(), 4, "{by_own:?}");
        let mut large = Workload { rows: 1, ..mistral(DType::BF16) };
        large.intermediate_size = 53_248;
        let long = shown(&Card { library: None, ..H200 }, &large);
        assert_eq!(long, ["matmul of a token: intermediate size 53248 is above 49152 -> matmul_wgmma"]);
        let why = "hidden size 4100 is no multiple of 8";
        assert!(odd.iter().chain(&by_own).all(|s| s.contains(why)), "{odd:?} {by_own:?}");
        let cache = "a cache in f16 beside weights in bf16";
        let want = [
            format!("norm_qkv_rope_append of a token: {cache} -> rmsnorm, matmul, apply_rope, append_rows"),
            format!("attention of a token: {cache} -> attention"),
            format!("attention of a prompt: {cache} -> attention"),
            format!("matmul of a prompt: attention in f32, for {cache} -> matmul"),
        ];
        assert_eq!(of(&|w| w.cache = DType::F16), want);
        let wide = of(&|w| w.activations = DType::F32);
        assert!(
            wide.contains(&"matmul of a prompt: activations in f32 beside weights in bf16 -> matmul".into())
        );
        let few = of(&|w| (w.rows, w.heads.head_dim) = (1, 36));
        assert!(!few.is_empty() && few.iter().all(|s| s.contains("of a token")), "{few:?}");
    }

    #[test]
    fn older_cards_say_which_kernels_they_take() {
        let old = Card { target: Target::of((7, 5)), library: None, ..H200 };
        let shown = shown(&old, &mistral(DType::F16));
        assert!(
            shown.iter().any(|s| s.starts_with("matmul of a prompt: kernels for compute capability 7.5"))
        );
        assert!(shown.iter().any(|s| s.starts_with("attention of a prompt")), "{shown:?}");
    }

    #[test]
    fn memory_beside_tensors_is_the_librarys_and_what_kernels_share() {
        let sum = |card: &Card, w: &Workload| held(card, w).sum::<u64>();
        // The sampler's 8 · 15361 + 12 · 32 000 bytes; attention meets in clusters.
        let scratch = 512 << 10;
        assert_eq!(sum(&H200, &mistral(DType::BF16)), (32 << 20) + scratch + (64 << 10));
        let alone = Card { library: None, ..H200 };
        assert_eq!(sum(&alone, &mistral(DType::BF16)), scratch + (64 << 10));
        let ampere = Card { target: Target::of((8, 0)), ..alone };
        assert!(sum(&ampere, &mistral(DType::BF16)) > 16 << 20, "products that share tiles");
        let beyond = Card { target: Target { capability: (9, 0), card: (10, 0) }, ..alone };
        assert!(sum(&beyond, &mistral(DType::BF16)) > 16 << 20, "the same");
        let parts = |card: &Card, w: &Workload| sum(card, w) - sum(card, &Workload { rows: 1, ..*w });
        let f32 = mistral(DType::F32);
        assert_eq!(parts(&alone, &f32), 64 << 20, "products that share tiles without tensor cores");
        assert_eq!(parts(&alone, &Workload { rows: 8, ..f32 }), 0, "few rows have a kernel of their own");
        let in_f16 = Workload { cache: DType::F16, ..mistral(DType::BF16) };
        let [with, without] = [in_f16, mistral(DType::BF16)].map(|w| parts(&H200, &w));
        assert_eq!(with - without, 64 << 20, "the product behind attention in f32");
        let odd = Workload { intermediate_size: 14_332, ..mistral(DType::BF16) };
        assert_eq!(parts(&alone, &odd), 64 << 20, "a product of 14 332 inputs");
        let large = Workload { rows: 1, intermediate_size: 53_248, ..mistral(DType::BF16) };
        assert!(sum(&ampere, &large) > 16 << 20, "rows too long to be streamed");
        let mut long = Workload { rows: 1, ..mistral(DType::BF16) };
        long.heads.head_dim = 264;
        let in_f32 = Workload { cache: DType::F32, ..long };
        assert_eq!(sum(&H200, &long) - sum(&H200, &in_f32), 2 * 4 * 32 * 264, "two rows in f32");
        let wide = Workload { vocab_size: 128_256, ..mistral(DType::BF16) };
        assert_eq!(sum(&alone, &wide), (2 << 20) + (64 << 10));
        // Behind 4096 keys, parts of 8 tiles by 16 blocks.
        let long = Workload { context: 32_768, ..wide };
        assert_eq!(sum(&alone, &long), (2 << 20) + (1 << 20) + (64 << 10));
    }
}
