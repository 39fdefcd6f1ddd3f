//! Pod cgroups: made with the pod's own limits before the runtime puts containers below them, and removed after it, in
//! every hierarchy of the host (v1, v2 and both at once). The runtime removes only its containers' directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::objects::Pod;
use crate::resources::{self, QosClass};
use crate::runtime::Resources;

/// A directory whose last process just died can stay busy for a moment.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// v1 controllers in which a pod has limits of its own; in the others the runtime's directories suffice.
const V1_CONTROLLERS: &[&str] = &["cpu", "memory"];

/// The host's cgroup hierarchies and our place in them.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// Path of all pods below each hierarchy's root, such as `/kubepods`.
    root: String,
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<PathBuf>,
}

// === impl Cgroups ===

impl Cgroups {
    /// Reads the mounted hierarchies from the kernel. `root` is where pods go in each of them.
    pub fn discover(root: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::parse(root, &mounts))
    }

    /// No hierarchies at all: for runtimes that are not real.
    pub fn none() -> Self {
        Cgroups { root: "/".to_owned(), v1: Vec::new(), v2: None }
    }

    fn parse(root: &str, mountinfo: &str) -> Self {
        let mut found = Cgroups { root: format!("/{}", root.trim_matches('/')), v1: Vec::new(), v2: None };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mountpoint) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut fields = right.split(' ');
            match (fields.next(), fields.nth(1)) {
                (Some("cgroup2"), _) if found.v2.is_none() => found.v2 = Some(mountpoint),
                (Some("cgroup"), Some(options)) => {
                    let options = options.split(',').map(str::to_owned).collect();
                    found.v1.push((options, mountpoint));
                }
                _ => {}
            }
        }
        found
    }

    /// The pod's path below each hierarchy's root: what the runtime gets as `cgroup_parent`.
    pub fn path_of(&self, pod: &Pod) -> String {
        let uid = &pod.metadata.uid;
        match resources::qos_class(pod) {
            QosClass::Guaranteed => format!("{}/pod{uid}", self.root),
            QosClass::Burstable => format!("{}/burstable/pod{uid}", self.root),
            QosClass::BestEffort => format!("{}/besteffort/pod{uid}", self.root),
        }
    }

    /// Makes the pod's directories and writes its limits. The runtime would make missing directories itself, so a
    /// hierarchy that refuses is logged, not fatal.
    pub fn prepare(&self, pod: &Pod) {
        let (path, limits) = (self.path_of(pod), resources::pod_resources(pod));
        for (controllers, mountpoint) in &self.v1 {
            for controller in
                V1_CONTROLLERS.iter().filter(|name| controllers.iter().any(|have| have == *name))
            {
                let directory = below(mountpoint, &path);
                if let Err(error) = limit_v1(&directory, controller, &limits) {
                    tracing::warn!(pod = %pod.reference(), ?directory, %error, "pod limits not applied");
                }
            }
        }
        // On a hybrid host the v2 tree has no controllers of its own; nothing to write there.
        if let Some(mountpoint) = self.v2.as_ref().filter(|_| self.v1.is_empty()) {
            let directory = below(mountpoint, &path);
            if let Err(error) = self.limit_v2(mountpoint, &directory, &limits) {
                tracing::warn!(pod = %pod.reference(), ?directory, %error, "pod limits not applied");
            }
        }
    }

    /// Removes what `prepare` and the runtime made, in every hierarchy.
    pub async fn remove(&self, path: &str) {
        let mountpoints = self.v1.iter().map(|(_, mountpoint)| mountpoint).chain(&self.v2);
        for mountpoint in mountpoints {
            let directory = below(mountpoint, path);
            for _ in 0..REMOVE_TRIES {
                match remove_tree(&directory) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(_) => tokio::time::sleep(REMOVE_PAUSE).await,
                }
            }
        }
    }

    fn limit_v2(&self, mountpoint: &Path, directory: &Path, limits: &Resources) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        delegate_controllers(mountpoint, directory)?;
        // v1's 2..262144 mapped to v2's 1..10000, the way the runtimes do it.
        let weight = 1 + (limits.cpu_shares - 2) * 9999 / 262_142;
        write(directory, "cpu.weight", weight)?;
        if limits.cpu_quota > 0 {
            write(directory, "cpu.max", format!("{} {}", limits.cpu_quota, limits.cpu_period))?;
        }
        if limits.memory_bytes > 0 {
            write(directory, "memory.max", limits.memory_bytes)?;
        }
        Ok(())
    }
}

fn below(mountpoint: &Path, path: &str) -> PathBuf {
    mountpoint.join(path.trim_start_matches('/'))
}

fn limit_v1(directory: &Path, controller: &str, limits: &Resources) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    match controller {
        "cpu" => {
            write(directory, "cpu.shares", limits.cpu_shares)?;
            if limits.cpu_quota > 0 {
                write(directory, "cpu.cfs_period_us", limits.cpu_period)?;
                write(directory, "cpu.cfs_quota_us", limits.cpu_quota)?;
            }
        }
        "memory" if limits.memory_bytes > 0 => {
            write(directory, "memory.limit_in_bytes", limits.memory_bytes)?
        }
        _ => {}
    }
    Ok(())
}

fn write(directory: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    fs::write(directory.join(file), value.to_string())
}

/// Passes cpu, memory and pids down every level above the pod, as v2 demands.
fn delegate_controllers(mountpoint: &Path, directory: &Path) -> io::Result<()> {
    let relative = directory.strip_prefix(mountpoint).unwrap_or(directory);
    let mut level = mountpoint.to_path_buf();
    for part in relative.components() {
        fs::write(level.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
        level.push(part);
    }
    Ok(())
}

/// cgroup directories are removed leaf first; their files cannot be unlinked and need not be.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
33 25 0:29 / / rw - ext4 /dev/vda rw\n";

    #[test]
    fn hierarchies_come_from_mountinfo_and_paths_from_the_class() {
        let found = Cgroups::parse("bowsprit/node-1", HYBRID);
        assert_eq!(found.v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(found.v1.len(), 2);
        let pod: Pod = serde_json::from_str(r#"{"metadata":{"uid":"u"}}"#).expect("a pod");
        assert_eq!(found.path_of(&pod), "/bowsprit/node-1/besteffort/podu");
    }

    #[tokio::test]
    async fn limits_are_written_and_the_directories_removed() {
        let temporary = tempfile::tempdir().expect("a directory");
        let found = Cgroups {
            root: "/pods".into(),
            v1: vec![(vec!["rw".into(), "cpu".into()], temporary.path().to_path_buf())],
            v2: None,
        };
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"uid":"u"},"spec":{"containers":[{"resources":{"limits":{"cpu":"1"}}}]}}"#,
        )
        .expect("a pod");
        found.prepare(&pod);
        let directory = temporary.path().join("pods/burstable/podu");
        assert_eq!(fs::read_to_string(directory.join("cpu.cfs_quota_us")).expect("written"), "100000");
        assert_eq!(fs::read_to_string(directory.join("cpu.shares")).expect("written"), "1024");
        // On a real cgroup file system the files would go with the directory.
        for file in ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"] {
            fs::remove_file(directory.join(file)).expect("there");
        }
        found.remove(&found.path_of(&pod)).await;
        assert!(!directory.exists());
    }
}
