//! The kernels that a backend has loaded.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use backend_api::{DType, Error, Result, Workload};

use crate::KernelSource;
use crate::device::{Device, Function, Kernel};
use crate::kernels::archive::{self, Target};
use crate::kernels::{self, signatures};
use crate::launch::Signature;
use crate::prefill::is_for_wgmma;
use crate::threads::on_threads;

/// The first version of the driver that also captures launches which overlap their predecessor.
const OVERLAP: i32 = 12_030;

/// Kernel, type of activations, type of weights.
pub(crate) type Key = (&'static str, DType, DType);

/// The kernels that one backend has launched.
#[derive(Debug)]
pub(crate) struct Functions {
    source: KernelSource,
    loaded: Mutex<HashMap<Key, Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    function: Function,
    /// Whether it was asked for to be launched.
    launched: bool,
}

/// The kernels that this process has loaded.
static KERNELS: LazyLock<Mutex<HashMap<Chosen, Place>>> = LazyLock::new(Mutex::default);

/// What tells one loaded kernel from another: source, what it was chosen for, name and types.
type Chosen = (KernelSource, Target, Key);

/// A kernel, once it is loaded; locked while it is being loaded, so that different ones load at once.
type Place = Arc<Mutex<Option<Kernel>>>;

impl Functions {
    pub(crate) fn new(source: KernelSource) -> Self {
        Self { source, loaded: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel, to be launched; loaded if it was not.
    pub(crate) fn get(&self, device: &Device, key: Key) -> Result<Function> {
        loop {
            if let Some(loaded) = self.lock().get_mut(&key) {
                loaded.launched = true;
                return Ok(loaded.function);
            }
            self.load(device, key)?;
        }
    }

    /// Names of the kernels that were asked for.
    pub(crate) fn launched(&self) -> Vec<&'static str> {
        let loaded = self.lock();
        loaded.iter().filter(|(_, loaded)| loaded.launched).map(|(key, _)| key.0).collect()
    }

    /// How many kernels are loaded.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn load(&self, device: &Device, key: Key) -> Result<()> {
        if self.lock().contains_key(&key) {
            return Ok(());
        }
        let mut function = device.function(self.kernel(device, key)?, kernels::shared(key.0))?;
        function.awaits = device.version >= OVERLAP && kernels::awaits(key.0, device.target.capability);
        self.lock().entry(key).or_insert(Loaded { function, launched: false });
        Ok(())
    }

    /// The process's kernel.
    fn kernel(&self, device: &Device, key: Key) -> Result<Kernel> {
        let place = {
            let mut kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(kernels.entry((self.source, device.target, key)).or_default())
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = *place {
            return Ok(kernel);
        }
        let kernel = device.load(key.0, self.source, image(self.source, key, device)?)?;
        check(key.0, |count| device.parameters(device.function(kernel, 0)?, count))?;
        Ok(*place.insert(kernel))
    }

    /// Loads several kernels on several threads, the longest first: no thread is left alone with one that takes long.
    pub(crate) fn preload(&self, device: &Device, keys: &[Key]) -> Result<()> {
        let mut keys = keys.to_vec();
        let length = |(kernel, scalar, weight): Key| archive::length(kernel, scalar, weight, device.target);
        keys.sort_by_cached_key(|key| Reverse(length(*key)));
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(key) = keys.get(next.fetch_add(1, Relaxed)) {
                self.load(device, *key)?;
            }
            Ok(())
        };
        on_threads(thread::available_parallelism().map_or(1, NonZero::get).min(keys.len()), work)
    }
}

/// Every kernel that is compiled for activations and weights of these types and for such a card. One that knows no weights
/// has the type of its activations in their place, as where it is launched.
pub(crate) fn keys(scalar: DType, weight: DType, on: Target) -> Vec<Key> {
    let (both, one) = (format!("{scalar}-{weight}"), scalar.to_string());
    let second = |t: &str| if t == one { Some(scalar) } else { (t == both).then_some(weight) };
    let fit =
        signatures().into_iter().filter_map(|s| Some((s.name, scalar, s.types.split(' ').find_map(second)?)));
    fit.filter(|(name, ..)| archive::target(name, scalar, weight, on).is_ok()).collect()
}

/// Every kernel that such a decoder takes: beside activations of the type of its weights, and beside f32.
pub(crate) fn of_model(w: &Workload, on: Target) -> Vec<Key> {
    let types = [(w.weights, w.weights), (DType::F32, w.weights), (DType::F32, w.cache)];
    let on_wgmma = is_for_wgmma(on, w.heads.head_dim);
    let is_idle = |name: &str| match name {
        // The slowest of all to compile, so that the other of the two is not worth waiting for.
        "attention_prefill_mma" => on_wgmma,
        "attention_prefill_wgmma" => !on_wgmma,
        "matmul_mma" => on == Target::HOPPER,
        _ => false,
    };
    let mut all: Vec<Key> = Vec::new();
    for key in types.into_iter().flat_map(|(scalar, weight)| keys(scalar, weight, on)) {
        if !is_idle(key.0) && !all.contains(&key) {
            all.push(key);
        }
    }
    all
}

/// What the driver is given.
fn image(source: KernelSource, (kernel, scalar, weight): Key, device: &Device) -> Result<Vec<u8>> {
    match source {
        KernelSource::Embedded => archive::ptx(kernel, scalar, weight, device.target).map(String::into_bytes),
        #[cfg(feature = "nvrtc")]
        KernelSource::Nvrtc => crate::nvrtc::compile((kernel, scalar, weight), device),
        #[cfg(not(feature = "nvrtc"))]
        KernelSource::Nvrtc => Err(KernelSource::not_built()),
    }
}

/// Where the driver sees the first parameters of a kernel, as many as are asked for and there are.
type Parameters = Option<Vec<(usize, usize)>>;

/// Whether the driver found the parameters that Rust passes, where it can tell.
pub(crate) fn check(kernel: &str, found: impl FnOnce(usize) -> Result<Parameters>) -> Result<()> {
    let Some(declared) = declared(kernel) else { return Ok(()) };
    // Where what is aligned beyond 8 bytes lies depends on where the driver puts the first.
    let sizes = |of: &[(usize, usize)]| of.iter().map(|p| p.1).collect::<Vec<_>>();
    let is_fixed = declared.iter().all(|p| p.1 <= 8);
    let agrees = |found: &[(usize, usize)]| match is_fixed {
        true => found == declared,
        false => sizes(found) == sizes(&declared),
    };
    match found(declared.len())? {
        Some(found) if !agrees(&found) => Err(Error::Backend {
            backend: "cuda".into(),
            op: format!("loading kernel `{kernel}`"),
            reason: format!("its parameters lie at {found:?}, and {declared:?} (offset, size) were declared"),
        }),
        _ => Ok(()),
    }
}

/// Where Rust passes a kernel's parameters.
fn declared(kernel: &str) -> Option<Vec<(usize, usize)>> {
    signatures().into_iter().find(|s| s.name == kernel).map(|s| layout(&s))
}

/// Offset and size in bytes of each parameter: numbers and pointers, each aligned to its size, and descriptions of matrices,
/// aligned to 64.
fn layout(signature: &Signature) -> Vec<(usize, usize)> {
    let mut end = 0usize;
    let place = |(.., ptx): &(_, _, &str)| {
        let size = if ptx.ends_with("[128]") {
            128
        } else if ptx.ends_with("64") {
            8
        } else {
            4
        };
        let offset = end.next_multiple_of(size.min(64));
        end = offset + size;
        (offset, size)
    };
    signature.params.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use backend_api::Heads;

    use super::*;

    #[test]
    fn parameters_that_the_driver_found_elsewhere_are_refused() {
        let declared = declared("sample").unwrap();
        let of = |found: &[(usize, usize)]| {
            let found = found.to_vec();
            check("sample", |count| Ok(Some(found.into_iter().take(count).collect())))
        };
        assert!(of(&declared).is_ok());
        assert!(check("sample", |_| Ok(None)).is_ok());
        let mut other = declared.clone();
        other[2].1 = 2;
        let error = of(&other).unwrap_err().to_string();
        assert!(error.contains("sample") && error.contains("(16, 2)"), "{error}");
        assert!(of(&declared[1..]).is_err());
        assert!(of(&declared[..declared.len() - 1]).is_err());
    }

    #[test]
    fn descriptions_of_matrices_may_lie_where_the_driver_aligns_them() {
        let mut found = declared("swiglu_wgmma").unwrap();
        for (offset, _) in &mut found[2..] {
            *offset -= 16;
        }
        assert!(check("swiglu_wgmma", |_| Ok(Some(found.clone()))).is_ok());
        found[3].1 = 64;
        assert!(check("swiglu_wgmma", |_| Ok(Some(found.clone()))).is_err());
    }

    #[test]
    fn parameters_are_aligned_to_their_size() {
        let param = |ptx| ("x", String::new(), ptx);
        let params = [".u64", ".u32", ".u64", ".f32", ".u32", ".align 64 .b8[128]"].map(param).to_vec();
        let signature =
            Signature { name: "k", block: 32, shared: 0, params, types: "f32", targets: "compute_50" };
        assert_eq!(layout(&signature), [(0, 8), (8, 4), (16, 8), (24, 4), (28, 4), (64, 128)]);
    }

    #[test]
    fn keys_are_the_kernels_of_the_types() {
        let names =
            |scalar, weight| keys(scalar, weight, Target::HOPPER).iter().map(|k| k.0).collect::<Vec<_>>();
        let bf16 = names(DType::BF16, DType::BF16);
        assert!(["add", "matmul", "sample", "attention"].iter().all(|name| bf16.contains(name)), "{bf16:?}");
        assert!(names(DType::F32, DType::BF16).contains(&"matmul"));
        assert!(!names(DType::BF16, DType::F32).contains(&"matmul"));
        let oldest = Target::of((5, 0));
        for (kernel, scalar, weight) in keys(DType::F16, DType::F16, oldest) {
            assert!(archive::ptx(kernel, scalar, weight, oldest).is_ok(), "{kernel}");
        }
    }

    fn workload([weights, cache]: [DType; 2], head_dim: usize) -> Workload {
        let w = conformance::mistral(weights);
        Workload { cache, heads: Heads { head_dim, ..w.heads }, ..w }
    }

    #[test]
    fn a_decoder_takes_kernels_of_its_types_and_heads() {
        let [f32, f16, bf16] = DType::FLOATS;
        let of = |types, head_dim, card| of_model(&workload(types, head_dim), Target::of(card));
        let mistral = of([bf16, bf16], 128, (9, 0));
        for key in [
            ("norm_swiglu", f32, bf16),
            ("attention_mma", bf16, bf16),
            ("matmul_wgmma", bf16, bf16),
            ("argmax", f32, f32),
            ("sample", f32, f32),
        ] {
            assert_eq!(mistral.iter().filter(|k| **k == key).count(), 1, "{key:?} in {mistral:?}");
        }
        assert!(!mistral.iter().any(|k| k.0 == "matmul_mma" || k.1 == f16 || k.2 == f16), "{mistral:?}");
        let prompts = |keys: Vec<Key>| -> Vec<_> {
            keys.iter().map(|k| k.0).filter(|name| name.starts_with("attention_prefill")).collect()
        };
        assert_eq!(prompts(mistral), ["attention_prefill_wgmma"]);
        assert_eq!(prompts(of([bf16, bf16], 64, (9, 0))), ["attention_prefill_mma"]);
        assert_eq!(prompts(of([bf16, bf16], 128, (8, 0))), ["attention_prefill_mma"]);
        assert!(prompts(of([bf16, bf16], 128, (5, 0))).is_empty());
        assert!(of([bf16, f16], 128, (9, 0)).contains(&("attention", f32, f16)));
        assert_eq!(of([f32, f32], 128, (9, 0)).len(), keys(f32, f32, Target::HOPPER).len());
    }

    #[test]
    fn a_card_beyond_hopper_takes_no_wgmma_even_for_kernels_of_hopper() {
        for capability in [(9, 0), (10, 0)] {
            let on = Target { capability, card: (10, 0) };
            let keys = of_model(&workload([DType::BF16; 2], 128), on);
            let has = |name| keys.iter().any(|k| k.0 == name);
            assert!(has("matmul_mma") && has("attention_prefill_mma"), "{keys:?}");
            assert!(!keys.iter().any(|k| k.0.ends_with("wgmma")), "{keys:?}");
            let target = |name| archive::target(name, DType::BF16, DType::BF16, on).ok();
            assert_eq!((target("attention_mma"), target("matmul_wgmma")), (Some("compute_90"), None));
        }
    }
}
