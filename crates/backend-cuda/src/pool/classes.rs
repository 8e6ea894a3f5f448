//! How requests are rounded, and what is reserved to serve them.

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Every block starts at, and measures, a multiple of this many bytes.
pub(super) const GRANULE: u64 = 256;

/// Above 16 MiB the classes lie this far apart: an eighth of a KV cache would be too much to give away.
const WIDEST_STEP: u64 = 2 * MIB;

/// An idle large segment is split only for a request of at least this fraction of it; cut up for less, it would be
/// missing when a request of its own size comes back.
const SPLIT_RATIO: u64 = 8;

/// Bytes of the size class that holds `bytes`, or `None` if that is more than can be counted.
///
/// Eight classes to each power of two, so that less than an eighth of a request is added to it; below 2 KiB the
/// granule decides.
pub(crate) fn size_class(bytes: u64) -> Option<u64> {
    let bytes = bytes.max(1);
    let step = ((1 << bytes.ilog2()) / 8).clamp(GRANULE, WIDEST_STEP);
    bytes.checked_next_multiple_of(step)
}

/// Requests of one tier share segments; a segment is one reservation with the raw allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Small,
    Medium,
    Large,
}

impl Tier {
    pub(super) const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// The tier that serves blocks of `class` bytes.
    pub(super) fn of(class: u64) -> Self {
        if class <= 256 * KIB {
            Self::Small
        } else if class <= 4 * MIB {
            Self::Medium
        } else {
            Self::Large
        }
    }

    /// Bytes to reserve for a block of `class` bytes that nothing cached can hold. A slab is eight times as large as
    /// the largest block that is cut from it, so its unusable end is at most an eighth of it.
    pub(super) fn segment_bytes(self, class: u64) -> u64 {
        match self {
            Self::Small => 2 * MIB,
            Self::Medium => 32 * MIB,
            Self::Large => class,
        }
    }

    /// Largest idle segment that may be split for a block of `class` bytes.
    pub(super) fn largest_split(self, class: u64) -> u64 {
        match self {
            Self::Small | Self::Medium => u64::MAX,
            Self::Large => class.saturating_mul(SPLIT_RATIO),
        }
    }
}

/// Most bytes that stay reserved when more are needed and `peak` bytes were in use at most: a quarter more than the
/// peak, and two slabs.
pub(super) fn retained(peak: u64) -> u64 {
    peak.saturating_add(peak / 4).saturating_add(64 * MIB)
}
