//! Events and leases on disk: a table of what is current, written with every change but never synced.
//!
//! The operating system has the writes when they are acknowledged, so that they survive the end of the process however it
//! ends, and after a power failure the last moments are missing. The table holds live keys only: it grows and shrinks with
//! them. Losing it whole loses nothing that is promised, so that a damaged file is replaced and a full disk only delays it.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::log::store_error;
use crate::{error::StoreError, types::Revision};

/// Checkpoints sync: rarely enough that lease renewals of a thousand nodes cause one every few seconds.
const CHECKPOINT_PAGES: u32 = 1000;

/// Rows are written and read back once, at the next start.
const CACHE_KIB: u32 = 512;

/// A live key that is not in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecentKey {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: u64,
    /// How long ago it was written, by the wall clock.
    pub age: Duration,
}

/// The table, and what it has still to learn.
pub(super) struct Recent {
    connection: Connection,
    path: PathBuf,
    pending: HashSet<Bytes>,
    failing: bool,
}

// === impl Recent ===

impl Recent {
    /// Opens it and reads what it holds; a damaged one is begun anew.
    pub fn open(path: &Path) -> Result<(Self, Vec<RecentKey>), StoreError> {
        let error = match Self::try_open(path) {
            Ok(opened) => return Ok(opened),
            Err(error) => store_error(path, &error),
        };
        if !matches!(error, StoreError::Corrupt { .. }) {
            return Err(error);
        }
        tracing::warn!(%error, "events and leases of before are lost, a new file is begun");
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            remove(Path::new(&file))?;
        }
        Self::try_open(path).map_err(|error| store_error(path, &error))
    }

    fn try_open(path: &Path) -> rusqlite::Result<(Self, Vec<RecentKey>)> {
        let connection = Connection::open(path)?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
             PRAGMA cache_size = -{CACHE_KIB};
             CREATE TABLE IF NOT EXISTS recent (
                 key BLOB PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,
                 mod_revision INTEGER NOT NULL, version INTEGER NOT NULL, written_ms INTEGER NOT NULL
             );"
        ))?;
        let keys = read(&connection)?;
        Ok((Self { connection, path: path.to_owned(), pending: HashSet::new(), failing: false }, keys))
    }

    /// Notes that a key has changed.
    pub fn changed(&mut self, key: Bytes) {
        self.pending.insert(key);
    }

    /// Writes the noted keys as `current` says they are now; what cannot be written is tried again with the next change.
    pub fn flush(&mut self, current: impl Fn(&Bytes) -> Option<RecentKey>) {
        if self.pending.is_empty() {
            return;
        }
        match self.write(current) {
            Ok(()) => {
                self.pending.clear();
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    let error = store_error(&self.path, &error);
                    tracing::warn!(%error, "events and leases are kept in memory only until this can be written again");
                }
                self.failing = true;
            }
        }
    }

    fn write(&mut self, current: impl Fn(&Bytes) -> Option<RecentKey>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut put = transaction.prepare_cached(
                "INSERT INTO recent VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO UPDATE SET
                     value = excluded.value, create_revision = excluded.create_revision,
                     mod_revision = excluded.mod_revision, version = excluded.version, written_ms = excluded.written_ms",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM recent WHERE key = ?1")?;
            let now = now_ms();
            for key in &self.pending {
                let Some(state) = current(key) else {
                    delete.execute([&key[..]])?;
                    continue;
                };
                let (create, modified) = (state.create_revision as i64, state.mod_revision as i64);
                put.execute(params![
                    &key[..],
                    &state.value[..],
                    create,
                    modified,
                    state.version as i64,
                    now
                ])?;
            }
        }
        transaction.commit()
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<RecentKey>> {
    let sql = "SELECT key, value, create_revision, mod_revision, version, written_ms FROM recent ORDER BY mod_revision";
    let mut statement = connection.prepare(sql)?;
    let now = now_ms();
    let rows = statement.query_map([], |row| {
        Ok(RecentKey {
            key: row.get::<_, Vec<u8>>(0)?.into(),
            value: row.get::<_, Vec<u8>>(1)?.into(),
            create_revision: row.get::<_, i64>(2)?.unsigned_abs(),
            mod_revision: row.get::<_, i64>(3)?.unsigned_abs(),
            version: row.get::<_, i64>(4)?.unsigned_abs(),
            // A clock that went back makes a key no younger than new.
            age: Duration::from_millis(u64::try_from(now - row.get::<_, i64>(5)?).unwrap_or(0)),
        })
    })?;
    rows.collect()
}

fn remove(file: &Path) -> Result<(), StoreError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Open { path: file.display().to_string(), reason: error.to_string() })
        }
        _ => Ok(()),
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str, mod_revision: Revision) -> RecentKey {
        RecentKey {
            key: name.into(),
            value: "v".into(),
            create_revision: 1,
            mod_revision,
            version: 2,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn holds_what_is_current() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("recent.db");
        let (mut recent, keys) = Recent::open(&path).expect("opens");
        assert_eq!(keys, []);
        for name in ["b", "a", "c"] {
            recent.changed(name.into());
        }
        recent.flush(|name| match &name[..] {
            b"a" => Some(key("a", 9)),
            b"b" => Some(key("b", 8)),
            _ => None,
        });
        recent.changed("b".into());
        recent.flush(|_| None);
        drop(recent);
        let (_, keys) = Recent::open(&path).expect("opens again");
        assert_eq!(
            keys.iter().map(|key| (&key.key[..], key.mod_revision)).collect::<Vec<_>>(),
            [(&b"a"[..], 9)]
        );
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("recent.db");
        fs::write(&path, vec![1; 9000]).expect("writes");
        let (_, keys) = Recent::open(&path).expect("opens a new one");
        assert_eq!(keys, []);
    }
}
