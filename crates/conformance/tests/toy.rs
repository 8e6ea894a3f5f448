//! The suite on the toy backend.

use conformance::toy::ToyBackend;

conformance::suite!(ToyBackend::new(), group = Quick);
