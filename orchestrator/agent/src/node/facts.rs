//! What the machine is: size, kernel, identity. Read once at start; pressure is read again and again.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::env::NodeAllocatable;
use crate::runtime::RuntimeInfo;

/// Version that nodes report: what the cluster's API is.
const KUBELET_VERSION: &str = "v1.36.0+bowsprit";

/// Less available memory than this is pressure: Kubernetes' hard eviction threshold.
const MEMORY_AVAILABLE_BYTES_MIN: u64 = 100 << 20;
/// Less free disk than this is pressure, on disks of ten times as much; on smaller ones a tenth is. Kubernetes' plain
/// tenth would put a node with 25 GB free out of service.
const DISK_FREE_BYTES_MIN: u64 = 1 << 30;
/// A smaller share of free process ids is pressure.
const PIDS_FREE_SHARE_MIN: f64 = 0.05;

/// What the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// CPUs.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of the disk that holds the pods.
    pub disk: i64,
}

impl Capacity {
    /// Reads the machine.
    pub fn read(data_directory: &Path) -> Self {
        let cpus =
            std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1));
        let memory = meminfo("MemTotal").and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(0);
        Capacity { cpus, memory, disk: i64::try_from(disk(data_directory).0).unwrap_or(i64::MAX) }
    }

    /// As pods may read it.
    pub fn allocatable(self) -> NodeAllocatable {
        NodeAllocatable { milli_cpu: self.cpus * 1000, memory: self.memory, ephemeral_storage: self.disk }
    }

    /// As the API writes it.
    pub fn to_json(self, pods: u32) -> Value {
        json!({
            "cpu": self.cpus.to_string(), "memory": format!("{}Ki", self.memory / 1024),
            "ephemeral-storage": format!("{}Ki", self.disk / 1024), "pods": pods.to_string(),
            "hugepages-1Gi": "0", "hugepages-2Mi": "0",
        })
    }
}

/// `status.nodeInfo`.
pub fn node_info(runtime: &RuntimeInfo) -> Value {
    let kernel = nix::sys::utsname::uname().ok();
    let kernel = kernel.as_ref().map(|names| names.release().to_string_lossy().into_owned());
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let machine = line("/etc/machine-id");
    let system = Some(line("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty());
    json!({
        "machineID": machine, "systemUUID": system.unwrap_or_else(|| machine.clone()),
        "bootID": line("/proc/sys/kernel/random/boot_id"), "kernelVersion": kernel.unwrap_or_default(),
        "osImage": os_image(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        "containerRuntimeVersion": format!("{}://{}", runtime.name, runtime.version),
        "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": "", "operatingSystem": "linux",
        "architecture": architecture(),
    })
}

/// The architecture in Go's words, which the API uses.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels that every node has.
pub fn labels(name: &str) -> Vec<(String, String)> {
    let own = [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ];
    own.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// What the machine is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
}

impl Pressure {
    /// Reads the machine.
    pub fn read(data_directory: &Path) -> Self {
        let (total, free) = disk(data_directory);
        Pressure {
            memory: meminfo("MemAvailable").is_some_and(|bytes| bytes < MEMORY_AVAILABLE_BYTES_MIN),
            disk: free < DISK_FREE_BYTES_MIN.min(total / 10),
            pids: pids_used_share().is_some_and(|used| used > 1.0 - PIDS_FREE_SHARE_MIN),
        }
    }
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Total and free bytes of a file system; zeros when it cannot be read.
fn disk(path: &Path) -> (u64, u64) {
    let Ok(found) = nix::sys::statvfs::statvfs(path) else { return (0, 0) };
    let block = found.fragment_size();
    (found.blocks() * block, found.blocks_available() * block)
}

fn pids_used_share() -> Option<f64> {
    let max: f64 = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    // "0.1 0.2 0.3 2/345 6789": running and existing tasks.
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let tasks: f64 = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    Some(tasks / max)
}

fn os_image(release: &str) -> String {
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map(|name| name.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_can_be_read() {
        let capacity = Capacity::read(Path::new("/"));
        assert!(capacity.cpus > 0 && capacity.memory > 1 << 20 && capacity.disk > 1 << 20, "{capacity:?}");
        assert_eq!(capacity.to_json(110)["pods"], "110");
        assert!(pids_used_share().is_some_and(|share| share < 1.0));
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
