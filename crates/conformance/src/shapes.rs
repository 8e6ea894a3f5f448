//! Shapes with edges: none, one, around a warp, around a block, odd primes, more rows than a grid's short side holds.

use backend_api::Heads;

/// Rows × cols of operations that work element by element or row by row: for every type and mixture.
pub(crate) const QUICK: &[(usize, usize)] =
    &[(0, 5), (3, 0), (1, 1), (2, 33), (3, 257), (1, 1025), (5, 64), (37, 2)];

/// The rest of the grid.
pub(crate) const FULL: &[(usize, usize)] = &[
    (0, 0),
    (1, 31),
    (1, 32),
    (7, 31),
    (2, 32),
    (1, 255),
    (2, 255),
    (1, 256),
    (3, 256),
    (1, 1023),
    (2, 1023),
    (1, 1024),
    (7, 1024),
    (2, 1025),
    (1, 4099),
    (3, 4096),
    (1, 32_003),
    (2, 65_537),
    (127, 61),
    (257, 128),
    (1021, 7),
    (65_537, 1),
    (65_537, 3),
];

/// Heads (n_heads, n_kv_heads, head_dim) of attention layers: for every type and mixture.
pub(crate) const QUICK_HEADS: &[(usize, usize, usize)] = &[(2, 1, 40), (4, 2, 16), (7, 1, 64)];

/// The rest of the grid.
pub(crate) const FULL_HEADS: &[(usize, usize, usize)] = &[
    (1, 1, 64),
    (4, 4, 16),
    (4, 1, 80),
    (4, 2, 96),
    (8, 2, 128),
    (2, 2, 256),
    (3, 3, 2),
    (4, 2, 6),
    (9, 1, 40),
    (12, 1, 128),
    (16, 1, 96),
    (34, 2, 8),
];

/// Heads, rows, keys and head_dim of products of several heads, for every type and mixture: groups of 1, 3, 4 and 8, more rows
/// than a group has heads and fewer, nothing at all of each.
pub(crate) const QUICK_GROUPS: &[(Heads, usize, usize)] = &[
    (heads(6, 2, 40), 1, 33),
    (heads(6, 2, 5), 4, 17),
    (heads(4, 4, 16), 2, 9),
    (heads(4, 1, 64), 1, 257),
    (heads(8, 2, 24), 3, 31),
    (heads(8, 1, 7), 5, 12),
    (heads(6, 2, 8), 0, 3),
    (heads(6, 2, 8), 1, 0),
    (heads(4, 2, 0), 2, 5),
];

/// The rest of the grid.
pub(crate) const FULL_GROUPS: &[(Heads, usize, usize)] = &[
    (heads(32, 8, 128), 1, 1025),
    (heads(32, 4, 64), 3, 255),
    (heads(24, 8, 96), 9, 131),
    (heads(16, 2, 80), 33, 67),
    (heads(3, 3, 1), 130, 31),
    (heads(9, 3, 33), 65, 129),
    (heads(8, 1, 256), 2, 4099),
    (heads(6, 2, 4), 1, 65_537),
    (heads(8, 2, 4), 8193, 2),
];

const fn heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Heads {
    Heads { n_heads, n_kv_heads, head_dim }
}
