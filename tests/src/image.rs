//! OCI images of one static binary, written as an archive that `ctr images import` reads: no registry is needed.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// One image: its name and what is in it.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// With registry and tag: `localhost/workload:1`.
    pub reference: &'a str,
    /// Path in the image and file on this machine, all executable.
    pub files: &'a [(&'a str, &'a Path)],
    /// Links in the image and what they point at.
    pub links: &'a [(&'a str, &'a str)],
    /// What runs when a pod names no command.
    pub entrypoint: &'a [&'a str],
}

/// Writes the image as an OCI archive. The same input gives the same bytes.
///
/// # Errors
/// When a file cannot be read or the archive cannot be written.
pub fn write(image: &Image<'_>, archive: &Path) -> Result<()> {
    let layer = layer(image)?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": image.entrypoint, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": image.reference });
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;

    // Written aside and renamed: an interrupted build must not leave half an archive that looks whole.
    let staged = archive.with_extension("new");
    let mut tar = tar::Builder::new(
        File::create(&staged).with_context(|| format!("cannot write {}", staged.display()))?,
    );
    append(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", 0o644, &index)?;
    for blob in [&manifest, &config, &layer] {
        append(&mut tar, &format!("blobs/sha256/{}", hash(blob)), 0o644, blob)?;
    }
    tar.into_inner()?.flush()?;
    fs::rename(&staged, archive).with_context(|| format!("cannot write {}", archive.display()))
}

fn layer(image: &Image<'_>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin/", "etc/", "tmp/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    for (path, file) in image.files {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        append(&mut tar, path.trim_start_matches('/'), 0o755, &bytes)?;
    }
    for (path, target) in image.links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, path.trim_start_matches('/'), target)?;
    }
    Ok(tar.into_inner()?)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("cannot add {path} to the archive"))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn hash(blob: &[u8]) -> String {
    hex::encode(Sha256::digest(blob))
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hash(blob))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
