//! A containerd of a node's own: its configuration, and the images that are imported into it.
//!
//! What each setting is for was found by trying, on Debian's containerd 1.6 with several of them on one machine.

use crate::command::{command, run};
use crate::layout::NodeLayout;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// The image of the pause container.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";
/// The image of the examples and tests.
pub const WORKLOAD_IMAGE: &str = "localhost/workload:1";
/// A runtime handler whose CNI configuration stands apart, empty until somebody writes one: for benches that want to know
/// what a pod takes without our network.
pub const BARE: &str = "bare";

/// Writes the configuration; returns the command line that runs containerd with it.
///
/// # Errors
/// When the directories cannot be made.
pub fn configure(node: &NodeLayout) -> Result<Vec<String>> {
    let root = node.directory.join("containerd");
    let run = node.run_directory.join("containerd");
    let cni = node.directory.join("cni");
    for directory in [&root, &run, &cni.join("bin"), &cni.join("net.d"), &cni.join(format!("{BARE}.d"))] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let file = node.directory.join("containerd.toml");
    let text = format!(
        r#"version = 2
root = "{root}"
state = "{run}"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
[debug]
  address = "{socket}.debug"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Root lacks CAP_SYS_RESOURCE in some sandboxes; then a lower oom_score_adj is refused.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni}/bin"
  conf_dir = "{cni}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  # Without it all containerds of the machine share one directory of runc's.
  Root = "{run}/runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{BARE}]
  runtime_type = "io.containerd.runc.v2"
  cni_conf_dir = "{cni}/{BARE}.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{BARE}.options]
  Root = "{run}/runc"
"#,
        root = root.display(),
        run = run.display(),
        socket = node.containerd_socket().display(),
        cni = cni.display(),
    );
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(vec!["containerd".to_owned(), "--config".to_owned(), file.display().to_string()])
}

/// Imports an image archive into a node's containerd, for its CRI.
///
/// # Errors
/// When `ctr` complains.
pub fn import(node: &NodeLayout, mounts: &Path, archive: &Path) -> Result<()> {
    let mut import =
        command("nsenter", [format!("--mount={}", mounts.display()), "--".to_owned(), "ctr".to_owned()]);
    import.arg("--address").arg(node.containerd_socket());
    import.args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    run(&mut import)
}

/// The sockets of the shims that belong to a containerd with this state directory: they lie in a shared place, and a
/// killed shim leaves its own there.
#[must_use]
pub fn shim_sockets(run_directory: &Path) -> Vec<std::path::PathBuf> {
    let tasks = run_directory.join("containerd/io.containerd.runtime.v2.task/k8s.io");
    let Ok(entries) = fs::read_dir(tasks) else { return Vec::new() };
    let address = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("address")).ok();
    entries
        .flatten()
        .filter_map(address)
        .filter_map(|text| text.trim().strip_prefix("unix://").map(Into::into))
        .collect()
}
