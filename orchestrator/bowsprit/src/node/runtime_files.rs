//! What the container runtime finds of us on disk: the plugins, and the configuration that says that there is a network.

use anyhow::{Context, Result};
use dataplane::cni;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// First in the runtime's order, so that a leftover of another plugin is not taken instead.
const CONFIGURATION: &str = "05-bowsprit.conflist";

/// Puts links to this binary where the runtime looks for plugins. Idempotent.
pub(crate) fn install_plugins(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let own = std::env::current_exe().context("cannot tell where this binary is")?;
    for name in [cni::PLUGIN, cni::LOOPBACK] {
        let link = directory.join(name);
        // Somebody's real loopback plugin does as well.
        let foreign = name == cni::LOOPBACK && link.exists();
        if foreign || fs::read_link(&link).is_ok_and(|target| target == own) {
            continue;
        }
        let staged = directory.join(format!(".{name}.new"));
        fs::remove_file(&staged).ok();
        symlink(&own, &staged)
            .and_then(|()| fs::rename(&staged, &link))
            .with_context(|| format!("cannot install the plugin {}", link.display()))?;
    }
    Ok(())
}

/// Writes the runtime's network configuration once pods can get a network.
pub(crate) struct Installer {
    /// Where the runtime looks for it.
    pub(crate) directory: PathBuf,
    /// Where the agent answers the plugin.
    pub(crate) socket: PathBuf,
}

impl Installer {
    /// Waits until nothing stands in the way, then writes the configuration. It stays: a runtime that has a network does
    /// not lose it when the agent restarts.
    pub(crate) async fn keep(self, mut obstacle: watch::Receiver<Option<Arc<str>>>) {
        if obstacle.wait_for(Option::is_none).await.is_err() {
            return;
        }
        match self.write() {
            Ok(()) => tracing::info!(directory = %self.directory.display(), "pods get a network"),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the runtime gets no network configuration")
            }
        }
    }

    fn write(&self) -> Result<()> {
        let path = self.directory.join(CONFIGURATION);
        let text = cni::configuration(&self.socket);
        if fs::read_to_string(&path).is_ok_and(|held| held == text) {
            return Ok(());
        }
        fs::create_dir_all(&self.directory)?;
        let staged = self.directory.join(".bowsprit.new");
        fs::write(&staged, text)
            .and_then(|()| fs::rename(&staged, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The node's directory in the cgroup v2 hierarchy.
pub(crate) fn cgroup_v2(root: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let v2 = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    });
    v2.unwrap_or_else(|| "/sys/fs/cgroup".into()).join(root.trim_start_matches('/'))
}
