//! The suite on the toy backend.

use conformance::toy::ToyBackend;

conformance::suite!(ToyBackend::new(), group = Quick);

mod ignored {
    use super::ToyBackend;

    conformance::suite!(ToyBackend::new(), ignore = "the same again, with a reason", group = Quick);
}
