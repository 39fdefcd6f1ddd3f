//! The lock on a store's directory: two servers cannot open one store.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use crate::error::StoreError;

/// Only the server reads the store: it holds Secrets.
const DIRECTORY_MODE: u32 = 0o700;

/// Held while the store is open; the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

// === impl DirectoryLock ===

impl DirectoryLock {
    /// Makes the directory if needed and locks it.
    pub fn acquire(directory: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(|error| open_error(directory, &error))?;
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| open_error(directory, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(directory, &path)),
            Err(TryLockError::Error(error)) => return Err(open_error(directory, &error)),
        }
        // The pid only helps whoever reads the error; on a full disk the lock counts all the same.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn held(directory: &Path, lock: &Path) -> StoreError {
    let holder = fs::read_to_string(lock).unwrap_or_default();
    let holder = holder.trim();
    let holder = if holder.is_empty() { "unknown" } else { holder };
    StoreError::Locked { path: directory.display().to_string(), holder: holder.to_owned() }
}

fn open_error(directory: &Path, error: &io::Error) -> StoreError {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as the user who owns it, or choose another path",
        io::ErrorKind::StorageFull => "; free some space",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "; the path must be a directory",
        _ => "",
    };
    StoreError::Open { path: directory.display().to_string(), reason: format!("{error}{remedy}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("store");
        let first = DirectoryLock::acquire(&path).expect("free");
        let error = DirectoryLock::acquire(&path).expect_err("held");
        assert_eq!(
            error,
            StoreError::Locked { path: path.display().to_string(), holder: std::process::id().to_string() }
        );
        drop(first);
        DirectoryLock::acquire(&path).expect("free again");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let error = DirectoryLock::acquire(file.path()).expect_err("not a directory").to_string();
        assert!(error.contains("must be a directory"), "{error}");
    }
}
