//! What is left of a cluster on this machine: nothing, if `down` did its work. Looks at the machine, not at the journal.

use crate::journal::cgroup_roots;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything on this machine that carries the name of the cluster, in words.
#[must_use]
pub fn of(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |what: &str, path: &Path| found.push(format!("{what} {}", path.display()));
    for path in
        entries("/run/netns").into_iter().filter(|path| file_name(path).starts_with(&format!("{name}-")))
    {
        tell("network namespace", &path);
    }
    for root in cgroup_roots() {
        entries(&root).iter().filter(|path| file_name(path) == name).for_each(|path| tell("cgroup", path));
    }
    for path in entries("/run/bowsprit-rig").into_iter().filter(|path| file_name(path) == name) {
        tell("directory", &path);
    }
    for path in entries("/sys/fs/bpf").into_iter().filter(|path| file_name(path).contains(name)) {
        tell("pin", &path);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|target| mentions(target, name))
    {
        tell("mount", Path::new(target));
    }
    for path in entries("/proc") {
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if file_name(&path).parse::<u32>().is_ok_and(|pid| pid != std::process::id())
            && mentions(&words, name)
        {
            tell(&format!("process `{}`", words.trim()), &path);
        }
    }
    found
}

fn mentions(text: &str, name: &str) -> bool {
    text.contains(&format!("/{name}/")) || text.ends_with(&format!("/{name}"))
}

fn entries(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
