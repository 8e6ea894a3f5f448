//! Typed kernel launches: the one place that turns Rust values into launch arguments.
//!
//! A kernel is declared once with `kernel!`; its arguments are a struct, so that a call names each of them, and its
//! [`Signature`] is compared with the `.cu` and the PTX by `tests/signatures.rs` and by `cargo xtask check-kernels`.

use std::ffi::c_void;
use std::marker::PhantomData;

use backend_api::DType;
use cudarc::driver::sys;

pub use crate::device::DriverError;
use crate::device::{Device, driver};
use crate::tensor_map::TensorMap;

/// Bytes of shared memory that a kernel may have of its own beside what a launch gives it: the card's limit is for both.
pub const OWN_SHARED: u32 = 1 << 10;

/// Elements of this type that a kernel stages where launches can give a block so much shared memory.
pub(crate) fn longest_row(shared_memory: u32, dtype: DType) -> usize {
    shared_memory.min(96 << 10) as usize / dtype.bytes(1).unwrap_or(4).max(1)
}

/// An element type as `.cu` files spell it.
pub trait Element {
    /// Its name there.
    const C: &'static str;
}

/// The type of activations, `-DSCALAR=…`.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

/// The type of weights and caches, `-DWEIGHT=…`.
#[derive(Clone, Copy, Debug)]
pub struct Weight;

impl Element for Scalar {
    const C: &'static str = "scalar";
}
impl Element for Weight {
    const C: &'static str = "weight";
}
impl Element for f32 {
    const C: &'static str = "f32";
}
impl Element for u32 {
    const C: &'static str = "u32";
}
impl Element for u64 {
    const C: &'static str = "u64";
}

/// Elements that a kernel reads: `const E*`. `E` is the kernel's name for their type; which type that is follows from the
/// variant that is launched.
#[derive(Clone, Copy, Debug)]
pub struct In<'a, E> {
    pointer: u64,
    of: PhantomData<&'a E>,
}

/// Elements that a kernel writes, and perhaps reads: `E*`.
#[derive(Debug)]
pub struct Out<'a, E> {
    pointer: u64,
    of: PhantomData<&'a mut E>,
}

impl<E> In<'_, E> {
    /// `extent` elements from a device address on; an empty operand is passed as null.
    pub fn new(pointer: u64, extent: usize) -> Self {
        Self { pointer: if extent == 0 { 0 } else { pointer }, of: PhantomData }
    }
}

impl<'a, E> Out<'a, E> {
    /// The same elements as an input, for kernels that run in place.
    pub fn as_input(&self) -> In<'a, E> {
        In { pointer: self.pointer, of: PhantomData }
    }

    /// `extent` elements from a device address on; an empty operand is passed as null.
    pub fn new(pointer: u64, extent: usize) -> Self {
        Self { pointer: if extent == 0 { 0 } else { pointer }, of: PhantomData }
    }
}

/// A kernel's parameter: how CUDA spells it, how PTX declares it, where the driver finds it.
pub trait Param {
    /// Its type in PTX; of an array with its length at the end, which PTX puts behind the name.
    const PTX: &'static str;

    /// Its type in CUDA.
    fn c() -> String;

    /// Address of the value that is passed; valid as long as the reference.
    fn address(&self) -> *mut c_void;
}

impl<E: Element> Param for In<'_, E> {
    const PTX: &'static str = ".u64";

    fn c() -> String {
        format!("const {}*", E::C)
    }

    fn address(&self) -> *mut c_void {
        (&raw const self.pointer).cast_mut().cast()
    }
}

impl<E: Element> Param for Out<'_, E> {
    const PTX: &'static str = ".u64";

    fn c() -> String {
        format!("{}*", E::C)
    }

    fn address(&self) -> *mut c_void {
        (&raw const self.pointer).cast_mut().cast()
    }
}

/// Parameters passed by value.
macro_rules! by_value {
    ($($rust:ty => $ptx:literal),*) => {$(
        impl Param for $rust {
            const PTX: &'static str = $ptx;

            fn c() -> String {
                stringify!($rust).to_owned()
            }

            fn address(&self) -> *mut c_void {
                std::ptr::from_ref(self).cast_mut().cast()
            }
        }
    )*};
}
by_value!(u32 => ".u32", u64 => ".u64", f32 => ".f32");

impl Param for TensorMap {
    const PTX: &'static str = ".align 64 .b8[128]";

    fn c() -> String {
        "const __grid_constant__ TensorMap".to_owned()
    }

    fn address(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// What Rust launches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Of the kernel, its files and its entry.
    pub name: &'static str,
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory that a launch may give a block, beside what the kernel declares.
    pub shared: u32,
    /// Name, type in CUDA and type in PTX of each parameter in order.
    pub params: Vec<(&'static str, String, &'static str)>,
    /// Element types it is compiled for, separated by spaces: `f32`, or `f32-bf16` for scalar and weight.
    pub types: &'static str,
    /// Targets it is compiled for, separated by spaces.
    pub targets: &'static str,
}

/// Where and how often a kernel runs.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'d> {
    /// Where; its context is current.
    pub(crate) device: &'d Device,
    /// The loaded variant.
    pub(crate) function: sys::CUfunction,
    /// The stream it is queued on.
    pub(crate) stream: sys::CUstream,
    /// Blocks; none launches nothing.
    pub(crate) grid: u32,
    /// Neighbouring blocks that run at the same time and see each other's shared memory: 1, or what `grid` is a multiple of
    /// on compute capability 9.0 and newer.
    pub(crate) cluster: u32,
    /// Bytes of shared memory per block; what the kernel's declaration states unless set.
    pub(crate) shared: Option<u32>,
    /// Whether the loaded variant waits for its predecessor itself.
    pub(crate) awaits: bool,
    /// Whether it may start while its predecessor still runs.
    pub(crate) overlaps: bool,
    /// Whether its blocks wait for each other, so that all of them must run at once.
    pub(crate) together: bool,
}

impl Launch<'_> {
    /// Lets the kernel start while its predecessor still runs, if the loaded variant waits for it and what it reads
    /// before that is `settled`: written by no kernel that may still run.
    pub(crate) fn overlapping(self, settled: bool) -> Self {
        Self { overlaps: self.awaits && settled, ..self }
    }

    /// Queues the kernel.
    ///
    /// # Errors
    /// What the driver answers.
    ///
    /// # Safety
    /// `params` holds one address per parameter of the loaded function, each of a value of its type; function and stream
    /// are alive and of the current context; what the kernel reads and writes stays allocated until it has run.
    #[expect(unsafe_code, reason = "the only call that starts a kernel")]
    pub(crate) unsafe fn run(
        self,
        block: u32,
        shared: u32,
        params: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        if self.grid == 0 {
            return Ok(());
        }
        use sys::CUlaunchAttributeID as Id;
        use sys::CUlaunchAttributeValue as Value;
        let cluster = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: self.cluster, y: 1, z: 1 };
        let mut attributes = [sys::CUlaunchAttribute {
            id: Id::CU_LAUNCH_ATTRIBUTE_IGNORE,
            pad: [0; 4],
            value: Value { pad: [0; 64] },
        }; 3];
        let wanted = [
            (
                self.overlaps,
                Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                Value { programmaticStreamSerializationAllowed: 1 },
            ),
            (self.cluster > 1, Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, Value { clusterDim: cluster }),
            (self.together, Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, Value { cooperative: 1 }),
        ];
        let mut count = 0;
        for (attribute, (_, id, value)) in attributes.iter_mut().zip(wanted.into_iter().filter(|w| w.0)) {
            (attribute.id, attribute.value) = (id, value);
            count += 1;
        }
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared.unwrap_or(shared),
            hStream: self.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: count,
        };
        // SAFETY: the caller's promise; the driver copies configuration and values before it returns.
        unsafe {
            driver::launch_kernel_ex(
                &raw const config,
                self.function,
                params.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .inspect_err(|e| drop(self.device.failed("a launch", *e)))
    }
}

/// Declares one kernel: the struct of its arguments with `launch`, and the signature that it promises.
macro_rules! kernel {
    (
        $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $ty:ty),* $(,)?),
        block = $block:literal,
        $(shared = $shared:literal,)?
        types = $types:literal,
        targets = $targets:literal $(,)?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct Args<'a> {
            $(pub $arg: $ty),*
        }

        impl<'a> Args<'a> {
            /// Queues the kernel.
            ///
            /// # Errors
            /// What the driver answers.
            ///
            /// # Safety
            /// `on.function` is this kernel, compiled for the types that the operands hold; each operand spans what the
            /// header of the `.cu` file states, and stays allocated until the kernel has run.
            #[expect(unsafe_code, reason = "what the operands span is known to the caller alone")]
            pub unsafe fn launch(self, on: $crate::launch::Launch<'_>) -> Result<(), $crate::launch::DriverError> {
                let mut params = [$($crate::launch::Param::address(&self.$arg)),*];
                // SAFETY: order and types are those of `signature`, which is proven equal to the compiled kernel's; the
                // rest is the caller's promise.
                unsafe { on.run($block, 0 $(+ $shared)?, &mut params) }
            }

            /// What Rust launches.
            pub fn signature() -> $crate::launch::Signature {
                fn of<P: $crate::launch::Param>(name: &'static str) -> (&'static str, String, &'static str) {
                    (name, P::c(), P::PTX)
                }
                let params = vec![$(of::<$ty>(stringify!($arg))),*];
                let (types, targets) = ($types, $targets);
                $crate::launch::Signature {
                    name: stringify!($name),
                    block: $block,
                    shared: 0 $(+ $shared)?,
                    params,
                    types,
                    targets,
                }
            }
        }
    };
}
pub(crate) use kernel;
