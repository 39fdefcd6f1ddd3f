//! `cargo xtask`: set-up, build, test, tidy, bench and the cluster on one machine.
fn main() {}
