//! One module per subcommand.

pub(crate) mod bench;
pub(crate) mod devices;
pub(crate) mod estimate;
pub(crate) mod generate;
pub(crate) mod verify;
