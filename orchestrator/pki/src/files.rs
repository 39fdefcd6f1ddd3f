//! Small files written whole or not at all, with their mode set before the first byte is in them.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::Error;

/// Mode of files that hold a private key.
pub const MODE_SECRET: u32 = 0o600;
/// Mode of files that everybody may read.
pub const MODE_PUBLIC: u32 = 0o644;

/// Contents of a file, or `None` if it does not exist.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "reading", path: path.into(), source }),
    }
}

/// Replaces a file atomically: after a crash it holds either the old or the new contents.
pub fn write(path: &Path, contents: &str, mode: u32) -> Result<(), Error> {
    write_inner(path, contents, mode).map_err(|source| Error::File {
        action: "writing",
        path: path.into(),
        source,
    })
}

fn write_inner(path: &Path, contents: &str, mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    // A leftover of a crash would keep its old mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Makes a directory (and its parents) that only its owner may enter.
pub fn private_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        action: "creating",
        path: path.into(),
        source,
    })
}

/// Holds the directory's lock until dropped: two processes that start at once must not make two authorities.
pub fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let locked = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE_SECRET)
        .open(&path)
        .and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| Error::File { action: "locking", path, source })
}
