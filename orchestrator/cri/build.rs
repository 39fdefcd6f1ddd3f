//! Compiles the interface definitions under `proto/` to tonic clients, without a `protoc` on the machine.

use std::error::Error;

const PROTOS: &[&str] = &["containerd.proto", "health.proto", "runtime.proto", "task_events.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
