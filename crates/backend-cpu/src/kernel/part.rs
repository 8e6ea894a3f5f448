//! Parts of slices that are there unless a kernel has a bug: a debug build checks that, a release build, which must not panic,
//! goes on with an empty part.

use std::slice::SliceIndex;

/// `values[range]`.
#[inline(always)]
#[track_caller]
pub(crate) fn part<T>(values: &[T], range: impl SliceIndex<[T], Output = [T]>) -> &[T] {
    let part = values.get(range);
    debug_assert!(part.is_some(), "a part that goes beyond {} values", values.len());
    part.unwrap_or(&[])
}

/// `values[range]`, to write.
#[inline(always)]
#[track_caller]
pub(crate) fn part_mut<T>(values: &mut [T], range: impl SliceIndex<[T], Output = [T]>) -> &mut [T] {
    let len = values.len();
    let part = values.get_mut(range);
    debug_assert!(part.is_some(), "a part that goes beyond {len} values");
    part.unwrap_or(&mut [])
}
