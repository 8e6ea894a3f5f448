//! Shapes with edges: none, one, around a warp, around a block, odd primes, more rows than a grid's short side holds.

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
pub(crate) const FULL_HEADS: &[(usize, usize, usize)] =
    &[(1, 1, 64), (4, 4, 16), (4, 1, 80), (4, 2, 96), (8, 2, 128), (2, 2, 256), (3, 3, 2), (4, 2, 6)];
