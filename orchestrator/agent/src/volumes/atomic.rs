//! Replaces the content of a directory in one step: files go to a new dated directory, `..data` is swung over to it by
//! a rename, and the visible names are links through `..data`. A reader sees the old content or the new, never both.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use chrono::Utc;

use super::VolumeError;
use super::payload::Files;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes `directory` show exactly `files`; does nothing when it does already.
pub(super) fn write(
    volume: &str,
    directory: &Path,
    files: &Files,
    group: Option<i64>,
) -> Result<(), VolumeError> {
    let fail = |action: &'static str, path: &Path| {
        let (volume, path) = (volume.to_owned(), path.to_path_buf());
        move |source: io::Error| VolumeError::Io { volume, action, path, source }
    };
    fs::create_dir_all(directory).map_err(fail("create", directory))?;
    if unchanged(directory, files) {
        return Ok(());
    }
    let previous = fs::read_link(directory.join(DATA)).ok().map(|link| directory.join(link));
    // Nanoseconds keep two writes apart; the dots hide the directory from a plain `ls`.
    let dated = directory.join(Utc::now().format("..%Y_%m_%d_%H_%M_%S.%f").to_string());
    write_files(&dated, files, group).map_err(fail("write below", &dated))?;
    swing(directory, &dated).map_err(fail("switch", directory))?;
    link_names(directory, files).map_err(fail("link", directory))?;
    if let Some(previous) = previous {
        fs::remove_dir_all(&previous).map_err(fail("remove", &previous))?;
    }
    Ok(())
}

fn unchanged(directory: &Path, files: &Files) -> bool {
    let data = directory.join(DATA);
    let same =
        files.iter().all(|(path, file)| fs::read(data.join(path)).is_ok_and(|held| held == file.content));
    same && data.exists() && count_files(&data) == files.len()
}

fn count_files(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn write_files(dated: &Path, files: &Files, group: Option<i64>) -> io::Result<()> {
    let group = group.and_then(|group| u32::try_from(group).ok());
    fs::create_dir(dated)?;
    fs::set_permissions(dated, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = dated.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        // Ownership first: a chown clears mode bits.
        if group.is_some() || file.owner.is_some() {
            chown(&target, file.owner, group)?;
        }
        let group_bits = if group.is_some() { 0o040 } else { 0 };
        fs::set_permissions(&target, fs::Permissions::from_mode((file.mode | group_bits) & 0o777))?;
    }
    Ok(())
}

fn swing(directory: &Path, dated: &Path) -> io::Result<()> {
    let next = directory.join(DATA_NEXT);
    remove_if_there(&next)?;
    let name = dated.file_name().map(PathBuf::from).unwrap_or_default();
    symlink(name, &next)?;
    fs::rename(next, directory.join(DATA))
}

/// One link per first component of a path; those without a file any more go.
fn link_names(directory: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &str| path.split('/').find(|part| !part.is_empty()).unwrap_or(path).to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(|path| first(path)).collect();
    for name in &wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
