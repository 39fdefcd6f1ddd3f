//! Checks, and where asked makes, what a hostPath volume expects on the node.

use std::fs::{self, FileType};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::VolumeError;
use crate::objects::HostPathVolume;

/// Fails when the path is not of the type that the volume demands.
pub(super) fn check(volume: &str, source: &HostPathVolume) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let wrong = |expected: &'static str| VolumeError::HostPathType {
        volume: volume.to_owned(),
        path: source.path.clone(),
        expected,
    };
    let demand = |expected: &'static str, is: fn(&FileType) -> bool| match fs::metadata(path) {
        Ok(found) if is(&found.file_type()) => Ok(()),
        _ => Err(wrong(expected)),
    };
    match source.kind.as_str() {
        "DirectoryOrCreate" => {
            make(volume, path, || fs::DirBuilder::new().recursive(true).mode(0o755).create(path))?;
            demand("directory", FileType::is_dir)
        }
        "FileOrCreate" => {
            let open = || fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path).map(drop);
            make(volume, path, open)?;
            demand("file", FileType::is_file)
        }
        "Directory" => demand("directory", FileType::is_dir),
        "File" => demand("file", FileType::is_file),
        "Socket" => demand("socket", |kind| kind.is_socket()),
        "CharDevice" => demand("character device", |kind| kind.is_char_device()),
        "BlockDevice" => demand("block device", |kind| kind.is_block_device()),
        _ => Ok(()),
    }
}

fn make(volume: &str, path: &Path, action: impl Fn() -> std::io::Result<()>) -> Result<(), VolumeError> {
    if path.exists() {
        return Ok(());
    }
    action().map_err(|source| VolumeError::Io {
        volume: volume.to_owned(),
        action: "create",
        path: path.to_path_buf(),
        source,
    })
}
