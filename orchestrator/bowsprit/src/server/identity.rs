//! Who this server is among several over one store: the same after a restart, another than its neighbours on one machine.

use crate::server::hostname;
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// A server's name in elections; one process has it at a time.
pub(crate) struct Identity {
    /// `HOST_UUID`: the host for people, the UUID for machines.
    pub(crate) name: String,
    /// Its lock keeps a second server out of the data directory and goes with the process.
    _file: File,
}

impl Identity {
    /// Takes up the identity that an earlier life of this server left in `directory`, or makes one.
    pub(crate) fn take_up(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| {
            format!("cannot make {}: say another place with --data-dir", directory.display())
        })?;
        let path = directory.join("identity");
        let cannot = || format!("cannot write {}: say another place with --data-dir", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "another server runs with the data directory {}: stop it, or give this one another with --data-dir",
                directory.parent().unwrap_or(directory).display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(cannot)?;
        // A line cut short by a crash was never used: it is synced first.
        let uuid = match text.strip_suffix('\n') {
            Some(uuid) => uuid.to_owned(),
            None => {
                let uuid = uuid::Uuid::new_v4().to_string();
                file.rewind().and_then(|()| file.set_len(0)).with_context(cannot)?;
                writeln!(file, "{uuid}").and_then(|()| file.sync_all()).with_context(cannot)?;
                uuid
            }
        };
        Ok(Self { name: format!("{}_{uuid}", hostname()), _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_over_a_restart_and_belongs_to_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let server = directory.path().join("server");
        let first = Identity::take_up(&server).unwrap();
        let refusal = Identity::take_up(&server).err().unwrap().to_string();
        assert!(refusal.contains(&directory.path().display().to_string()), "{refusal}");
        let name = first.name.clone();
        drop(first);
        assert_eq!(Identity::take_up(&server).unwrap().name, name);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(Identity::take_up(other.path()).unwrap().name, name);
    }

    #[test]
    fn a_half_written_one_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("identity"), "8f7c").unwrap();
        let name = Identity::take_up(directory.path()).unwrap().name;
        assert!(!name.ends_with("_8f7c"), "{name}");
    }
}
