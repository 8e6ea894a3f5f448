//! The book-keeping: which bytes of which segment are free. Calls nobody, so it cannot be left half done.

use std::collections::{BTreeMap, BTreeSet};

use super::classes::Tier;

/// One reservation with the raw allocator.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) bytes: u64,
    pub(super) tier: Tier,
    /// Blocks handed out from it.
    pub(super) blocks: usize,
    /// Key of this segment in [`Heap::idle`] while it has no blocks.
    idle_key: u64,
}

/// A piece of a segment, handed out or free.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: u64,
    /// First address of the segment.
    pub(super) segment: u64,
    pub(super) free: bool,
}

/// All segments. Chunks tile each of them, and two free chunks of one segment never touch.
#[derive(Debug, Default)]
pub(super) struct Heap {
    /// By first address.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// By first address.
    pub(super) chunks: BTreeMap<u64, Chunk>,
    /// Free chunks as (bytes, first address), one set per tier.
    pub(super) free: [BTreeSet<(u64, u64)>; Tier::ALL.len()],
    /// First addresses of segments without blocks; the one that has been so for longest comes first.
    pub(super) idle: BTreeMap<u64, u64>,
    next_idle_key: u64,
    pub(super) reserved: u64,
    pub(super) in_use: u64,
}

impl Heap {
    /// Hands out `class` bytes of the smallest free chunk of the tier that has them and may be split for them.
    pub(super) fn take(&mut self, tier: Tier, class: u64) -> Option<u64> {
        let limit = tier.largest_split(class);
        let fits = self.free[tier as usize].range((class, 0)..);
        let &(_, address) = fits.into_iter().find(|(bytes, address)| {
            // An idle segment is one free chunk, which begins where the segment does.
            *bytes <= limit || self.segments.get(address).is_none_or(|segment| segment.blocks > 0)
        })?;
        self.carve(address, class)
    }

    /// Hands out `class` bytes of the smallest free chunk that has them, whatever it was kept for.
    pub(super) fn take_anywhere(&mut self, class: u64) -> Option<u64> {
        let fits = self.free.iter().filter_map(|free| free.range((class, 0)..).next());
        let &(_, address) = fits.min()?;
        self.carve(address, class)
    }

    /// Adds a segment and hands out its first `class` bytes.
    pub(super) fn add_segment(&mut self, base: u64, bytes: u64, tier: Tier, class: u64) -> Option<u64> {
        let idle_key = self.mark_idle(base);
        self.segments.insert(base, Segment { bytes, tier, blocks: 0, idle_key });
        self.chunks.insert(base, Chunk { bytes, segment: base, free: true });
        self.free[tier as usize].insert((bytes, base));
        self.reserved += bytes;
        self.carve(base, class)
    }

    /// Removes the segment that has been without blocks for longest and returns its first address.
    pub(super) fn pop_idle(&mut self) -> Option<u64> {
        let (_, base) = self.idle.pop_first()?;
        let segment = self.segments.remove(&base)?;
        self.chunks.remove(&base);
        self.free[segment.tier as usize].remove(&(segment.bytes, base));
        self.reserved -= segment.bytes;
        Some(base)
    }

    /// Takes back the block at `address` and joins it with the free chunks beside it.
    pub(super) fn give_back(&mut self, address: u64) {
        let Some(Chunk { mut bytes, segment: base, .. }) = self.chunks.remove(&address) else { return };
        let Some(segment) = self.segments.get_mut(&base) else { return };
        segment.blocks -= 1;
        self.in_use -= bytes;
        let free = &mut self.free[segment.tier as usize];
        let mut start = address;
        let joins = |chunk: &Chunk| chunk.free && chunk.segment == base;
        if let Some((&next, chunk)) = self.chunks.range(address..).next().filter(|(_, chunk)| joins(chunk)) {
            free.remove(&(chunk.bytes, next));
            bytes += chunk.bytes;
            self.chunks.remove(&next);
        }
        if let Some((&before, chunk)) =
            self.chunks.range(..address).next_back().filter(|(_, chunk)| joins(chunk))
        {
            free.remove(&(chunk.bytes, before));
            bytes += chunk.bytes;
            start = before;
        }
        free.insert((bytes, start));
        self.chunks.insert(start, Chunk { bytes, segment: base, free: true });
        if segment.blocks == 0 {
            segment.idle_key = self.next_idle_key;
            self.mark_idle(base);
        }
    }

    /// Hands out the first `class` bytes of the free chunk at `address`.
    fn carve(&mut self, address: u64, class: u64) -> Option<u64> {
        let chunk = self.chunks.get_mut(&address)?;
        let segment = self.segments.get_mut(&chunk.segment)?;
        let rest = chunk.bytes.checked_sub(class)?;
        let free = &mut self.free[segment.tier as usize];
        free.remove(&(chunk.bytes, address));
        chunk.bytes = class;
        chunk.free = false;
        if rest > 0 {
            let base = chunk.segment;
            free.insert((rest, address + class));
            self.chunks.insert(address + class, Chunk { bytes: rest, segment: base, free: true });
        }
        if segment.blocks == 0 {
            self.idle.remove(&segment.idle_key);
        }
        segment.blocks += 1;
        self.in_use += class;
        Some(address)
    }

    fn mark_idle(&mut self, base: u64) -> u64 {
        let key = self.next_idle_key;
        self.next_idle_key += 1;
        self.idle.insert(key, base);
        key
    }
}
