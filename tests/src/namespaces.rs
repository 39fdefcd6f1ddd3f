//! The machines of a cluster as namespaces: the segment with its bridge, the router, and one network and one mount
//! namespace a node.
//!
//! A mount namespace cannot be kept by a file here (the machine's root is shared), so a small process holds it: what
//! containerd and the agent mount vanishes with the last process of the node.

use crate::command::{command, read, run};
use crate::journal::{Journal, Process, Resource};
use crate::keeper;
use crate::layout::{BEYOND, GATEWAY, Layout, NodeLayout, SEGMENT_PREFIX};
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes the segment: a bridge in a namespace of its own, and the namespace `outside` with the router.
///
/// # Errors
/// When a namespace or device cannot be made; names the command that failed.
pub fn make_segment(layout: &Layout, journal: &mut Journal) -> Result<()> {
    let bridge = layout.bridge_namespace();
    make_network_namespace(&bridge, journal)?;
    ip(&bridge, "link add name br0 type bridge forward_delay 0")?;
    ip(&bridge, "link set br0 up")?;
    let outside = layout.outside_namespace();
    make_network_namespace(&outside, journal)?;
    join_segment(layout, &outside, GATEWAY, "outside")?;
    ip(&outside, &format!("address add {BEYOND}/32 dev lo"))?;
    sysctl(&outside, "net.ipv4.ip_forward", "1")
}

/// Makes a node's network namespace, joins it to the segment and gives it a default route.
///
/// # Errors
/// As [`make_segment`].
pub fn make_node(layout: &Layout, node: &NodeLayout, journal: &mut Journal) -> Result<()> {
    make_network_namespace(&node.namespace, journal)?;
    join_segment(layout, &node.namespace, &node.address, &node.name)?;
    ip(&node.namespace, &format!("route add default via {GATEWAY}"))
}

/// Makes a network namespace with its loopback up, noted in the journal.
///
/// # Errors
/// As [`make_segment`].
pub fn make_network_namespace(name: &str, journal: &mut Journal) -> Result<()> {
    journal.record(&Resource::NetworkNamespace(name.to_owned()))?;
    run(&mut command("ip", ["netns", "add", name]))?;
    ip(name, "link set lo up")
}

fn join_segment(layout: &Layout, namespace: &str, address: &str, port: &str) -> Result<()> {
    let bridge = layout.bridge_namespace();
    ip(&bridge, &format!("link add name {port} type veth peer name eth0 netns {namespace}"))?;
    ip(&bridge, &format!("link set {port} master br0 up"))?;
    ip(namespace, &format!("address add {address}/{SEGMENT_PREFIX} dev eth0"))?;
    ip(namespace, "link set eth0 up")
}

/// `ip -n NAMESPACE ...`.
///
/// # Errors
/// When `ip` complains.
pub fn ip(namespace: &str, words: &str) -> Result<()> {
    run(command("ip", ["-n", namespace]).args(words.split(' ')))
}

fn sysctl(namespace: &str, key: &str, value: &str) -> Result<()> {
    run(&mut in_network(namespace, "sysctl", &["-q", "-w", &format!("{key}={value}")]))
}

/// A command that will run in a network namespace, with the machine's own mounts.
#[must_use]
pub fn in_network(namespace: &str, program: &str, arguments: &[&str]) -> Command {
    let mut entering =
        command("nsenter", [format!("--net=/run/netns/{namespace}"), "--".to_owned(), program.to_owned()]);
    entering.args(arguments);
    entering
}

/// Starts the process that holds a node's mount namespace; returns the namespace's file.
///
/// # Errors
/// When the holder does not come up: repeats what it said.
pub fn hold_mounts(rig: &Path, node: &NodeLayout, journal: &mut Journal) -> Result<PathBuf> {
    let what = format!("the holder of {}'s mount namespace", node.name);
    let mut holder = Command::new(rig);
    holder.arg("hold");
    let process = keeper::begin(holder, &what, &node.pid_file("holder"), &node.log("holder"), journal)?;
    Ok(PathBuf::from(format!("/proc/{}/ns/mnt", process.pid)))
}

/// `rig hold FILE`: makes a mount namespace with a bpffs of its own, says so in the file, and waits for its end.
///
/// # Errors
/// When the namespace or a mount is refused.
pub fn hold(ready: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace: this needs root")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .context("cannot detach the mounts from the machine's")?;
    std::fs::create_dir_all("/sys/fs/bpf").ok();
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)
        .context("cannot mount a bpffs on /sys/fs/bpf")?;
    Process::own()?.save(ready)?;
    loop {
        nix::unistd::pause();
    }
}

/// What a namespace's `ip` shows, for reports.
///
/// # Errors
/// When `ip` complains.
pub fn show(namespace: &str, words: &str) -> Result<String> {
    read(command("ip", ["-n", namespace]).args(words.split(' ')))
}
