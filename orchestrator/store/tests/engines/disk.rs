//! The embedded engine's files: a full disk, the lock, damage, restarts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use store::{KeyRange, Op, RangeOptions, Store, StoreError, Txn};

use crate::rig::{Rig, commit, get, list, next_events, put};

/// A file system that is soon full, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).expect("a directory");
        let mut mount = Command::new("mount");
        let mount =
            mount.args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&path).output().expect("mount runs");
        let complaint = String::from_utf8_lossy(&mount.stderr);
        assert!(
            mount.status.success(),
            "cannot mount a tmpfs on {}: run the tests as root: {complaint}",
            path.display()
        );
        Self(path)
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn try_put(store: &dyn Store, key: String, bytes: usize) -> Result<(), StoreError> {
    store.txn(Txn { then: vec![Op::put(key, vec![1; bytes])], ..Txn::default() }).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_serves_reads() {
    let rig = Rig::embedded();
    let disk = SmallDisk::mount(rig.path());
    let store = rig.open().await;
    put(&*store, "/before", "1").await;
    let filler = disk.fill();
    let mut written = 0;
    let error = loop {
        match try_put(&*store, format!("/n/{written}"), 2000).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, StoreError::Full { reason } if reason.contains("free some space")), "{error}");
    assert_eq!(get(&*store, "/before").await.expect("readable").value, "1");
    let all = store.range(KeyRange::prefix("/n/"), RangeOptions::default()).await.expect("readable");
    assert_eq!(all.items.len(), written, "all that was acknowledged and nothing else");
    // Leases of nodes do not need the disk: the cluster must not fall apart because it is full.
    let lease = put(&*store, "/leases/node", "alive").await;
    assert!(
        lease
            > store.range(KeyRange::key("/before"), RangeOptions::default()).await.expect("reads").items[0]
                .mod_revision
    );
    let mut watch = store.watch(KeyRange::prefix("/leases/"), lease).await.expect("watches");
    assert_eq!(next_events(&mut watch).await, "/leases/node=alive<-");

    fs::remove_file(filler).expect("removes");
    put(&*store, "/after", "2").await;
    store.close().await;
    let store = rig.open().await;
    assert_eq!(get(&*store, "/after").await.expect("exists").value, "2");
    let all = store.range(KeyRange::prefix("/n/"), RangeOptions::default()).await.expect("readable");
    assert_eq!(all.items.len(), written);
    assert_eq!(get(&*store, "/leases/node").await.expect("written later").value, "alive");
    store.close().await;
}

#[tokio::test]
async fn a_disk_that_is_full_from_the_start_is_said() {
    let rig = Rig::embedded();
    let disk = SmallDisk::mount(rig.path());
    let store = rig.open().await;
    put(&*store, "/a", "1").await;
    store.close().await;
    let filler = disk.fill();
    match rig.try_open().await {
        Ok(store) => {
            assert_eq!(get(&*store, "/a").await.expect("readable").value, "1");
            store.close().await;
        }
        Err(error) => assert!(matches!(&error, StoreError::Full { .. }), "{error}"),
    }
    fs::remove_file(filler).expect("removes");
    let store = rig.open().await;
    assert_eq!(get(&*store, "/a").await.expect("exists").value, "1");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_of_events_is_ended() {
    let rig = Rig { event_ttl: Duration::from_secs(3600), ..Rig::embedded() };
    let store = rig.open().await;
    let mut watch = store.watch(KeyRange::prefix("/events/"), 1).await.expect("watches");
    // More than the recent history holds.
    for number in 0..200 {
        put(&*store, &format!("/events/{}", number % 20), vec![0; 64 << 10]).await;
    }
    let error = crate::rig::next(&mut watch).await.expect_err("too far behind");
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
}

#[tokio::test]
async fn two_servers_cannot_share_a_store() {
    let rig = Rig::embedded();
    let store = rig.open().await;
    let error = rig.try_open().await.err().expect("in use");
    let pid = std::process::id().to_string();
    assert_eq!(error, StoreError::Locked { path: rig.path().display().to_string(), holder: pid.clone() });
    assert!(
        error.to_string().contains(&pid) && error.to_string().contains("--store embedded:PATH"),
        "{error}"
    );
    store.close().await;
    rig.open().await;
}

#[tokio::test]
async fn damage_is_found_and_the_file_left_alone() {
    let rig = Rig::embedded();
    let store = rig.open().await;
    for number in 0..200 {
        put(&*store, &format!("/k/{number}"), vec![b'v'; 1000]).await;
    }
    store.close().await;
    let path = rig.path().join("log.db");
    let mut bytes = fs::read(&path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xee);
    fs::write(&path, &bytes).expect("writes");
    let error = rig.try_open().await.err().expect("damaged");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("backup"), "{error}");
    let found = fs::read(&path).expect("reads");
    assert_eq!((found.len(), found[middle]), (bytes.len(), 0xee), "nothing was thrown away or overwritten");
}

#[tokio::test]
async fn paths_that_cannot_be_are_explained() {
    let rig = Rig::embedded();
    fs::write(rig.path(), "a file").expect("writes");
    let error = rig.try_open().await.err().expect("not a directory").to_string();
    assert!(
        error.contains("must be a directory") && error.contains(&rig.path().display().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn the_store_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::embedded();
    rig.open().await.close().await;
    let mode = fs::metadata(rig.path()).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "Secrets lie in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_reopen_quickly() {
    const KEYS: usize = 20_000;
    let rig = Rig::embedded();
    let store = rig.open().await;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        commit(&*store, chunk.iter().map(|n| Op::put(format!("/n/{n}"), vec![b'v'; 1000])).collect()).await;
    }
    store.close().await;
    let start = Instant::now();
    let store = rig.open().await;
    let elapsed = start.elapsed();
    let options = RangeOptions { mode: store::RangeMode::CountOnly, ..RangeOptions::default() };
    assert_eq!(store.range(KeyRange::prefix("/n/"), options).await.expect("reads").count, KEYS as u64);
    println!("{KEYS} keys of 1 KB reopened in {elapsed:?}");
    // Lenient: a starved machine passes, work that grows with the square of the keys does not.
    assert!(elapsed < crate::rig::PATIENCE, "{elapsed:?}");
}

#[tokio::test]
async fn events_and_leases_do_not_grow_the_log() {
    let rig = Rig::embedded();
    let store = rig.open().await;
    for number in 0..2000_usize {
        put(&*store, "/leases/node", vec![b'v'; 1000]).await;
        put(&*store, &format!("/events/{}", number % 10), vec![b'v'; 1000]).await;
    }
    store.close().await;
    let size = |name: &str| fs::metadata(rig.path().join(name)).map_or(0, |file| file.len());
    assert!(size("log.db") + size("log.db-wal") < 200 << 10, "log.db: {} bytes", size("log.db"));
    assert!(size("recent.db") < 1 << 20, "recent.db: {} bytes", size("recent.db"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_is_given_back_after_deletes() {
    let rig = Rig::embedded();
    let store = rig.open().await;
    let mut last = 0;
    for chunk in (0..20_000).collect::<Vec<_>>().chunks(100) {
        last = commit(&*store, chunk.iter().map(|n| Op::put(format!("/n/{n}"), vec![b'v'; 1000])).collect())
            .await;
    }
    let full = file_bytes(&rig.path());
    for chunk in (0..20_000).collect::<Vec<_>>().chunks(100) {
        last = commit(&*store, chunk.iter().map(|n| Op::delete(format!("/n/{n}"))).collect()).await;
    }
    store.compact(last).await.expect("compacts");
    let start = Instant::now();
    while file_bytes(&rig.path()) > full / 2 {
        assert!(start.elapsed() < crate::rig::PATIENCE, "{} of {full} bytes left", file_bytes(&rig.path()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(list(&*store, "/n/", None).await, Vec::<String>::new());
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path.join("log.db")).expect("exists").len()
}
