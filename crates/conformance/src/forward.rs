//! A backend around another.

/// Inside `impl KernelBackend`: forwards to the backend in a field what has no default, and the operations that are named.
/// There are no graphs: a step is issued one operation after the other. `Tensor`, the other operations, and what shall
/// differ from its default are written beside it. The caller depends on `backend-api`.
///
/// `forward! { inner: silu_into(Silu), softmax_into(Softmax) }`; without operations, `forward! { inner }`.
#[macro_export]
macro_rules! forward {
    ($inner:ident $(: $($method:ident($op:ident)),+)?) => {
        type Graph = ();

        fn step(
            &self,
            (): &mut (),
            first: usize,
            body: &mut (dyn FnMut(&Self, Option<usize>) -> backend_api::Result<()> + Send),
        ) -> backend_api::Result<()> {
            body(self, Some(first))
        }

        $crate::forward! { @each $inner
            name() -> &str;
            device() -> backend_api::DeviceId;
            info() -> backend_api::DeviceInfo;
            counters() -> backend_api::Counters;
            memory() -> backend_api::MemoryInfo;
            synchronize() -> backend_api::Result<()>;
            read_bandwidth() -> backend_api::Result<f64>;
            alloc(shape: &[usize], dtype: backend_api::DType) -> backend_api::Result<Self::Tensor>;
            upload(shape: &[usize], dtype: backend_api::DType, fill: backend_api::Fill<'_>)
                -> backend_api::Result<Self::Tensor>;
            write(dst: &mut Self::Tensor, offset: usize, src: &[u8]) -> backend_api::Result<()>;
            read(src: &Self::Tensor, offset: usize, out: &mut [u8]) -> backend_api::Result<()>;
            fill_random(dst: &mut Self::Tensor, seed: u64, scale: f32) -> backend_api::Result<()>;
            $($($method(op: backend_api::Checked<backend_api::ops::$op<'_, Self::Tensor>>)
                -> backend_api::Result<()>;)+)?
        }
    };
    (@each $inner:ident $($method:ident($($name:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $method(&self, $($name: $type),*) -> $out { self.$inner.$method($($name),*) })*
    };
}
