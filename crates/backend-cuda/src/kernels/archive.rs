//! The embedded PTX, one deflate stream per variant, and the sources it was compiled from.

use backend_api::{Cause, DType, Error, Result};

/// Entry after entry: length of the name (u16), name, length of the text (u32), length of its deflate stream (u32),
/// stream; numbers little-endian. Written by `cargo xtask build-kernels`.
static ARCHIVE: &[u8] = include_bytes!("../../ptx/kernels.bin");

/// What kernels are chosen for, in compute capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// That of the card, or less where the builder says so.
    pub capability: (u32, u32),
    /// That of the card: `compute_90a` runs on 9.0 alone.
    pub card: (u32, u32),
}

impl Target {
    /// The only one with wgmma.
    pub const HOPPER: Self = Self::of((9, 0));

    /// All that a card of this capability runs.
    pub const fn of(card: (u32, u32)) -> Self {
        Self { capability: card, card }
    }
}

/// The best PTX of a kernel for a card: of the variants for these types, the one with the highest target that the card
/// can run. A kernel with one element type only looks at `scalar`.
///
/// # Errors
/// [`Error::Unsupported`]: the kernel is not compiled for these types. [`Error::Unavailable`]: for no card this old.
pub fn ptx(kernel: &str, scalar: DType, weight: DType, on: Target) -> Result<String> {
    text(best(kernel, scalar, weight, on)?.0)
}

/// How long the text is that [`ptx`] gives, in bytes; 0 where it gives none.
pub fn length(kernel: &str, scalar: DType, weight: DType, on: Target) -> usize {
    let name = best(kernel, scalar, weight, on).map_or("", |(name, _)| name);
    Entries(ARCHIVE).find(|entry| entry.0 == name).map_or(0, |entry| entry.1.0)
}

/// The target that [`ptx`] chooses: `compute_50`, `compute_90a`, ….
///
/// # Errors
/// As [`ptx`].
pub fn target(kernel: &str, scalar: DType, weight: DType, on: Target) -> Result<&'static str> {
    Ok(best(kernel, scalar, weight, on)?.1)
}

/// Name of the best entry, and its target.
fn best(kernel: &str, scalar: DType, weight: DType, on: Target) -> Result<(&'static str, &'static str)> {
    let mut compiled = variants(kernel, scalar, weight).peekable();
    if compiled.peek().is_none() {
        return Err(Error::Unsupported {
            what: format!("kernel `{kernel}` for {scalar} and {weight}"),
            supported: supported(kernel),
        });
    }
    let ranked = compiled.filter_map(|(name, target)| Some((rank(target, on)?, (name, target))));
    let (major, minor) = on.capability;
    ranked.max().map(|(_, variant)| variant).ok_or_else(|| Error::Unavailable {
        backend: "cuda".to_owned(),
        cause: Cause::NoKernelImage,
        reason: format!(
            "kernel `{kernel}` is compiled for no card of compute capability {major}.{minor}; 5.0 is needed, or use the CPU"
        ),
        searched: variants(kernel, scalar, weight).map(|(name, _)| name.to_owned()).collect(),
    })
}

/// Entries of a kernel for these types, with their targets.
fn variants(
    kernel: &str,
    scalar: DType,
    weight: DType,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let prefixes = [format!("{kernel}.{scalar}-{weight}."), format!("{kernel}.{scalar}.")];
    names().filter_map(move |name| {
        let target = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix.as_str()))?;
        Some((name, target.strip_suffix(".ptx")?))
    })
}

/// The source of a kernel with its includes in place, for compilation at run time.
///
/// # Errors
/// [`Error::Unsupported`]: there is no such kernel.
pub fn source(kernel: &str) -> Result<String> {
    text(&format!("{kernel}.cu"))
}

/// An entry's text.
///
/// # Errors
/// [`Error::Unsupported`]: there is no such entry.
pub fn text(name: &str) -> Result<String> {
    let missing =
        || Error::Unsupported { what: name.to_owned(), supported: "what `MANIFEST` lists".to_owned() };
    let (length, stream) = Entries(ARCHIVE).find(|entry| entry.0 == name).ok_or_else(missing)?.1;
    let damaged = |what: String| Error::Backend {
        backend: "cuda".to_owned(),
        op: format!("unpacking `{name}`"),
        reason: format!("{what}; the program file is damaged"),
    };
    let bytes = miniz_oxide::inflate::decompress_to_vec_with_limit(stream, length)
        .map_err(|e| damaged(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))
}

/// Names of all entries.
pub fn names() -> impl Iterator<Item = &'static str> {
    Entries(ARCHIVE).map(|(name, _)| name)
}

/// How good a target is on a card: its number, an exact one (`compute_90a`) above a portable one; none if it does not run.
fn rank(target: &str, on: Target) -> Option<(u32, bool)> {
    let most = on.capability.0 * 10 + on.capability.1;
    let number = target.strip_prefix("compute_")?;
    match number.strip_suffix('a') {
        Some(exact) => {
            exact.parse().ok().filter(|n| *n == most && on == Target::of(on.card)).map(|n| (n, true))
        }
        None => number.parse().ok().filter(|n| *n <= most).map(|n| (n, false)),
    }
}

fn supported(kernel: &str) -> String {
    let of_kernel = |name: &'static str| name.strip_prefix(kernel)?.strip_prefix('.')?.strip_suffix(".ptx");
    let variants: Vec<_> = names().filter_map(of_kernel).collect();
    if variants.is_empty() { "no variant of it".to_owned() } else { variants.join(", ") }
}

/// The entries of an archive: name, length of the text, its stream. Ends early where the archive is cut off.
struct Entries(&'static [u8]);

impl Iterator for Entries {
    type Item = (&'static str, (usize, &'static [u8]));

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        let (text, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_first_chunk()?;
        let (stream, rest) = rest.split_at_checked(u32::from_le_bytes(*stream) as usize)?;
        self.0 = rest;
        Some((std::str::from_utf8(name).ok()?, (u32::from_le_bytes(*text) as usize, stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_rank_by_what_the_card_can_run() {
        let own = |target, card| rank(target, Target::of(card));
        assert_eq!(own("compute_50", (9, 0)), Some((50, false)));
        assert!(own("compute_90a", (9, 0)) > own("compute_90", (9, 0)));
        assert_eq!(own("compute_90a", (10, 0)), None);
        assert_eq!(own("compute_80", (7, 5)), None);
        assert!(own("compute_120", (12, 0)) > own("compute_90", (12, 0)));
        let as_hopper = Target { capability: (9, 0), card: (10, 0) };
        assert_eq!(rank("compute_90a", as_hopper), None);
        assert_eq!(rank("compute_90", as_hopper), Some((90, false)));
    }

    #[test]
    fn what_is_not_compiled_is_refused_with_what_is() {
        let error = ptx("rmsnorm", DType::BF16, DType::F32, Target::HOPPER).unwrap_err().to_string();
        assert!(error.contains("rmsnorm") && error.contains("bf16-bf16.compute_50"), "{error}");
        let old = ptx("rmsnorm", DType::F32, DType::F32, Target::of((3, 5))).unwrap_err();
        assert!(matches!(old, Error::Unavailable { cause: Cause::NoKernelImage, .. }), "{old}");
        assert!(old.to_string().contains("3.5") && old.to_string().contains("rmsnorm.f32-f32"), "{old}");
        assert_eq!(target("add", DType::F32, DType::F32, Target::of((5, 2))).unwrap(), "compute_50");
        assert!(
            ptx("nothing", DType::F32, DType::F32, Target::HOPPER)
                .unwrap_err()
                .to_string()
                .contains("no variant")
        );
        assert!(source("nothing").is_err());
    }
}
