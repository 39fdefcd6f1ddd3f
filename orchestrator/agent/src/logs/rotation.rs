//! Keeps container logs bounded: a file that has grown too large is renamed, the runtime opens a new one, and only the
//! newest few renamed ones are kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;

use crate::pods::files;
use crate::pods::shared::{ContainerView, PodView, Shared};

/// Sizes are looked at this often: a container that logs 1 MB/s exceeds the bound by its own size at most.
const CHECK_PERIOD: Duration = Duration::from_secs(10);

/// How large logs may grow.
#[derive(Clone, Copy, Debug)]
pub struct RotationLimits {
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Files of one run, the one being written included.
    pub files_max: usize,
}

impl Default for RotationLimits {
    /// Kubernetes' numbers.
    fn default() -> Self {
        RotationLimits { file_bytes_max: 10 << 20, files_max: 5 }
    }
}

/// Rotates logs for ever.
pub async fn run(shared: Arc<Shared>, limits: RotationLimits) {
    loop {
        tokio::time::sleep(CHECK_PERIOD).await;
        for pod in shared.views.all() {
            for container in pod.containers.iter().filter(|container| container.running) {
                if let Err(error) = rotate_if_large(&shared, &pod, container, limits).await {
                    tracing::warn!(pod = %pod.reference, container = container.name, %error, "log not rotated");
                }
            }
        }
    }
}

async fn rotate_if_large(
    shared: &Shared,
    pod: &PodView,
    container: &ContainerView,
    limits: RotationLimits,
) -> io::Result<()> {
    let (Some(id), Some(attempt)) = (&container.id, container.attempt) else { return Ok(()) };
    let directory = files::log_directory(&shared.settings, &pod.reference);
    let path = directory.join(files::log_path(&container.name, attempt));
    if !fs::metadata(&path).is_ok_and(|found| found.len() > limits.file_bytes_max) {
        return Ok(());
    }
    rename(&path, limits.files_max)?;
    shared.runtime.reopen_log(id).await.map_err(io::Error::other)
}

/// Renames the file by the time and removes the oldest renamed ones beyond the bound.
fn rename(path: &Path, files_max: usize) -> io::Result<()> {
    let stamp = Utc::now().format("%Y%m%d-%H%M%S%.3f");
    fs::rename(path, format!("{}.{stamp}", path.display()))?;
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut old: Vec<PathBuf> = fs::read_dir(directory)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    // The stamp sorts by time.
    old.sort();
    let excess = old.len().saturating_sub(files_max.saturating_sub(1));
    old[..excess].iter().try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        for number in 0..4 {
            fs::write(&path, number.to_string()).expect("written");
            rename(&path, 3).expect("renamed");
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut kept: Vec<String> = fs::read_dir(directory.path())
            .expect("listed")
            .flatten()
            .map(|entry| fs::read_to_string(entry.path()).expect("read"))
            .collect();
        kept.sort();
        assert_eq!(kept, ["2", "3"]);
    }
}
