//! The rig: what it leaves behind when nothing works.

use crate::fixture;
use libtest_mimic::{Failed, Trial};
use rig::cluster;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "rig::a_server_that_does_not_start_is_explained_and_leaves_nothing",
        server_that_does_not_start,
    )]
}

fn server_that_does_not_start() -> Result<(), Failed> {
    let directory = Path::new("/tmp").join(format!("bowsprit-rig-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    for name in ["rig", "workload"] {
        std::fs::copy(fixture::binaries().join(name), directory.join(name))?;
    }
    let broken = directory.join("bowsprit");
    std::fs::write(&broken, "#!/bin/sh\necho the cellar is flooded\nexit 3\n")?;
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755))?;
    let spec = cluster::Spec { binaries: directory.clone(), ..fixture::spec("fail", 2) };
    let (clusters, name) = (spec.clusters.clone(), spec.name.clone());
    let result = fixture::make(spec);
    std::fs::remove_dir_all(&directory)?;
    let error = format!("{:#}", result.err().ok_or("a broken server started")?);
    if !error.contains("the cellar is flooded") || !error.contains("bowsprit on node-1") {
        return Err(format!("the error does not explain itself: {error}").into());
    }
    cluster::down(&clusters, &name)?;
    let left = rig::leftovers::of(&name);
    if !left.is_empty() {
        return Err(left.join("\n").into());
    }
    Ok(())
}
