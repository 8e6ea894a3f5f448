use conformance::{toy::ToyBackend, Group, ops};
#[test]
fn timing() {
    for (name, run) in ops::all::<ToyBackend>() {
        let t = std::time::Instant::now();
        let r = run(&ToyBackend::new(), if std::env::var("FULL").is_ok() {Group::Full} else {Group::Quick});
        println!("{name}: {:?} {r:?}", t.elapsed());
    }
}
