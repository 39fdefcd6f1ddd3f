//! Takes everything of a node's dataplane away again: links, maps, devices, routes, and nothing that is not ours.

use std::{fs, io, path::Path};

use crate::{
    config::Config,
    devices,
    error::{Error, Result},
    loader::{link_names, unpin, version_directories},
};

/// Removes the node's links first, so that no packet meets half of it, then its devices and routes, then its maps. Runs in the
/// node's network namespace, with no agent at work.
pub fn detach(config: &Config) -> Result<()> {
    for directory in version_directories(&config.bpffs)? {
        for link in link_names(&directory)? {
            unpin(&directory.join("links").join(link))?;
        }
    }
    devices::remove_all()?;
    for directory in version_directories(&config.bpffs)? {
        for entry in fs::read_dir(&directory).map_err(Error::file("reading", &directory))?.flatten() {
            if entry.path().is_file() {
                unpin(&entry.path())?;
            }
        }
        remove_directory(&directory.join("links"))?;
        remove_directory(&directory)?;
    }
    remove_directory(&config.bpffs)
}

fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("removing", path)(error)),
        _ => Ok(()),
    }
}
