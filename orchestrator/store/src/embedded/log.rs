//! The durable log: an SQLite table with one row a revision, written by one connection, read by a few.
//!
//! Revisions ascend, so that rows are appended to the right edge of one B-tree and a commit writes one or two pages. Which
//! row holds the state of a key is known to the index in memory; the table knows nothing of keys.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi, params};

use super::record::{self, Record, Spot};
use crate::{error::StoreError, types::Revision};

/// "BwSp" in the file's header: what is not ours is not touched.
const APPLICATION_ID: i32 = 0x4277_5370;

/// The layout of tables and rows. A store written by a newer one is refused.
const LAYOUT_VERSION: i32 = 1;

/// 8 KiB pages hold half a dozen usual objects; 4 KiB ones cost a tenth of the rate, bigger ones write more for each commit.
const PAGE_BYTES: u32 = 8192;

/// 1,000 pages keep a checkpoint near 10 ms; with 16,000 one takes 110 ms, during which nothing commits.
const CHECKPOINT_PAGES: u32 = 1000;

/// What a burst leaves of the write-ahead log after a checkpoint.
const WAL_BYTES_KEPT: u32 = 16 << 20;

/// The writer reads the former states of what is updated: enough for the hot pages, little beside the index.
const WRITER_CACHE_KIB: i32 = 8 << 10;

/// A reader looks up rows by number: the inner pages of the tree are all that it meets twice.
const READER_CACHE_KIB: i32 = 512;

/// Idle read connections kept; more readers at once open and close their own.
const READERS_KEPT: usize = 4;

/// Readers wait this long for SQLite's own short locks, which are held for the recovery of the write-ahead log.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows read at a time for a watcher that is behind, and the bytes after which it is enough.
const ROWS_AT_ONCE: usize = 256;
const ROWS_BYTES_AT_ONCE: usize = 4 << 20;

/// Free pages given back to the file system at a time: 2 MiB, a few milliseconds.
const VACUUM_PAGES: u32 = 256;

/// Below so many free pages (8 MiB) the file is left as it is: it will need them again.
const FREE_PAGES_KEPT: u32 = 1024;

/// The store's numbers that outlive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// No revision above this one was ever given to anybody.
    pub reserved: Revision,
    /// History before this revision is given up.
    pub compacted: Revision,
    /// The rows of history up to this compaction are removed.
    pub swept: Revision,
}

/// The writing connection.
pub(super) struct Log {
    connection: Connection,
    path: PathBuf,
}

// === impl Log ===

impl Log {
    /// Opens or makes the log.
    pub fn open(path: &Path) -> Result<(Self, Meta), StoreError> {
        let at = |error| store_error(path, &error);
        let connection = Connection::open(path).map_err(at)?;
        let log = Self { connection, path: path.to_owned() };
        log.check_owner()?;
        log.configure().map_err(at)?;
        sync_directory_of(path)?;
        let meta = log.read_meta().map_err(at)?;
        Ok((log, meta))
    }

    /// Refuses a file that another program, or a newer version of this one, has made.
    fn check_owner(&self) -> Result<(), StoreError> {
        let number = |pragma| self.connection.query_row(pragma, [], |row| row.get::<_, i32>(0));
        let owner = number("PRAGMA application_id").map_err(|error| store_error(&self.path, &error))?;
        let version = number("PRAGMA user_version").map_err(|error| store_error(&self.path, &error))?;
        let tables =
            number("SELECT count(*) FROM sqlite_schema").map_err(|error| store_error(&self.path, &error))?;
        let refuse = |reason: &str| {
            Err(StoreError::Open { path: self.path.display().to_string(), reason: reason.into() })
        };
        if owner != APPLICATION_ID && (owner != 0 || tables != 0) {
            return refuse("it is another program's SQLite database; choose another path");
        }
        if version > LAYOUT_VERSION {
            return refuse("it was written by a newer version of Bowsprit; run that one");
        }
        Ok(())
    }

    fn configure(&self) -> rusqlite::Result<()> {
        // Page size and vacuum mode take effect only before the first table and before WAL.
        self.connection.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES};
             PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
             PRAGMA journal_size_limit = {WAL_BYTES_KEPT};
             PRAGMA cache_size = -{WRITER_CACHE_KIB};
             PRAGMA temp_store = MEMORY;"
        ))?;
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        let made: bool = self.connection.query_row(
            "SELECT count(*) = 2 FROM sqlite_schema WHERE name IN ('log', 'meta')",
            [],
            |row| row.get(0),
        )?;
        if made {
            return Ok(());
        }
        self.connection.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             CREATE TABLE log (revision INTEGER PRIMARY KEY, records BLOB NOT NULL);
             CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
             PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {LAYOUT_VERSION};
             COMMIT;"
        ))
    }

    fn read_meta(&self) -> rusqlite::Result<Meta> {
        let number = |name| {
            let sql = "SELECT value FROM meta WHERE name = ?1";
            let value = self.connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).optional()?;
            Ok::<_, rusqlite::Error>(value.unwrap_or(0).unsigned_abs())
        };
        Ok(Meta { reserved: number("reserved")?, compacted: number("compacted")?, swept: number("swept")? })
    }

    /// Hands every row to `each`, in the order of revisions.
    pub fn replay(&self, mut each: impl FnMut(Revision, Vec<Record>)) -> Result<(), StoreError> {
        let at = |error| store_error(&self.path, &error);
        let mut statement =
            self.connection.prepare("SELECT revision, records FROM log ORDER BY revision").map_err(at)?;
        let mut rows = statement.query([]).map_err(at)?;
        while let Some(row) = rows.next().map_err(at)? {
            let (revision, records) = read_columns(row).map_err(at)?;
            each(revision, decode(&self.path, revision, records)?);
        }
        Ok(())
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE")
    }

    /// Adds a row to the transaction.
    pub fn append(&self, revision: Revision, row: &[u8]) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("INSERT INTO log (revision, records) VALUES (?1, ?2)")
            .and_then(|mut statement| statement.execute(params![revision as i64, row]))
            .map(drop)
            .map_err(|error| store_error(&self.path, &error))
    }

    /// Makes the transaction durable. After an error nothing of it is there, unless the error is
    /// [`StoreError::OutcomeUnknown`].
    pub fn commit(&self) -> Result<(), StoreError> {
        let committed =
            self.connection.prepare_cached("COMMIT").and_then(|mut statement| statement.execute([]));
        committed.map(drop).map_err(|error| match store_error(&self.path, &error) {
            StoreError::Unavailable { reason } => StoreError::OutcomeUnknown { reason },
            other => other,
        })
    }

    /// Forgets the transaction, if SQLite has not already done so.
    pub fn rollback(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::warn!(%error, "rolling back failed");
        }
    }

    /// Writes one of the numbers of [`Meta`], durably unless inside a transaction.
    pub fn set(&self, name: &'static str, value: Revision) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )
            .and_then(|mut statement| statement.execute(params![name, value as i64]))
            .map(drop)
            .map_err(|error| store_error(&self.path, &error))
    }

    /// The records of one row, if it is still there.
    pub fn row(&self, revision: Revision) -> Result<Option<Vec<Record>>, StoreError> {
        read_row(&self.connection, &self.path, revision)
    }

    /// Removes records that nobody can reach any more, all or none of them.
    pub fn remove(&self, spots: &[Spot]) -> Result<(), StoreError> {
        self.begin()?;
        spots
            .iter()
            .try_for_each(|spot| self.remove_one(*spot))
            .and_then(|()| self.commit())
            .inspect_err(|_| self.rollback())
    }

    /// A row goes when its last record does; until then the others keep their numbers.
    fn remove_one(&self, spot: Spot) -> Result<(), StoreError> {
        let Some(mut records) = self.row(spot.revision)? else { return Ok(()) };
        if let Some(record) = records.get_mut(spot.index as usize) {
            *record = Record::Removed;
        }
        let revision = spot.revision as i64;
        let done = if records.iter().all(|record| *record == Record::Removed) {
            let statement = self.connection.prepare_cached("DELETE FROM log WHERE revision = ?1");
            statement.and_then(|mut statement| statement.execute([revision]))
        } else {
            let statement = self.connection.prepare_cached("UPDATE log SET records = ?2 WHERE revision = ?1");
            statement.and_then(|mut statement| statement.execute(params![revision, record::encode(&records)]))
        };
        done.map(drop).map_err(|error| store_error(&self.path, &error))
    }

    /// Gives some free pages back to the file system; false when there is no need for more.
    pub fn shrink(&self) -> Result<bool, StoreError> {
        let at = |error| store_error(&self.path, &error);
        let free = self.number("PRAGMA freelist_count")?;
        if free <= u64::from(FREE_PAGES_KEPT).max(self.number("PRAGMA page_count")? / 4) {
            return Ok(false);
        }
        let mut statement = self
            .connection
            .prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))
            .map_err(at)?;
        let mut rows = statement.query([]).map_err(at)?;
        while rows.next().map_err(at)?.is_some() {}
        Ok(true)
    }

    /// Moves what the write-ahead log holds into the main file, which only then gets shorter. Waits for nobody.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(|error| store_error(&self.path, &error))
    }

    /// Bytes of the main file.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.number("PRAGMA page_count")? * u64::from(PAGE_BYTES))
    }

    fn number(&self, pragma: &str) -> Result<u64, StoreError> {
        let number = self.connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
        number.map(i64::unsigned_abs).map_err(|error| store_error(&self.path, &error))
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|error| store_error(&self.path, &error))
    }
}

/// Read connections, for whichever thread needs a value.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

// === impl Readers ===

impl Readers {
    /// For the log at `path`, which must be open for writing already.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default() }
    }

    /// Lends a connection to `read`, to look up rows with [`Reader::row`].
    pub fn with<T>(&self, read: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.idle.lock().pop();
        let connection = idle.map_or_else(|| self.connect(), Ok)?;
        let result = read(&Reader { connection: &connection, path: &self.path });
        let mut idle = self.idle.lock();
        if idle.len() < READERS_KEPT {
            idle.push(connection);
        }
        result
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch(&format!("PRAGMA cache_size = -{READER_CACHE_KIB}"))?;
            Ok(connection)
        };
        connect().map_err(|error| store_error(&self.path, &error))
    }

    /// Closes the idle connections, so that the writer's close can remove the write-ahead log.
    pub fn close(&self) {
        self.idle.lock().clear();
    }
}

/// A lent read connection.
pub(super) struct Reader<'a> {
    connection: &'a Connection,
    path: &'a Path,
}

// === impl Reader ===

impl Reader<'_> {
    /// The records of one row, if it is still there.
    pub fn row(&self, revision: Revision) -> Result<Option<Vec<Record>>, StoreError> {
        read_row(self.connection, self.path, revision)
    }

    /// Hands the rows between two revisions, both included, to `each`, in order.
    pub fn each_row(
        &self,
        first: Revision,
        last: Revision,
        mut each: impl FnMut(Revision, Vec<Record>),
    ) -> Result<(), StoreError> {
        let at = |error| store_error(self.path, &error);
        let sql = "SELECT revision, records FROM log WHERE revision BETWEEN ?1 AND ?2 ORDER BY revision";
        let mut statement = self.connection.prepare_cached(sql).map_err(at)?;
        let mut rows = statement.query([first as i64, last as i64]).map_err(at)?;
        while let Some(row) = rows.next().map_err(at)? {
            let (revision, records) = read_columns(row).map_err(at)?;
            each(revision, decode(self.path, revision, records)?);
        }
        Ok(())
    }

    /// Some rows from a revision on, in order.
    pub fn rows(&self, from: Revision) -> Result<Rows, StoreError> {
        let at = |error| store_error(self.path, &error);
        let sql = "SELECT revision, records FROM log WHERE revision >= ?1 ORDER BY revision";
        let mut statement = self.connection.prepare_cached(sql).map_err(at)?;
        let mut rows = statement.query([from as i64]).map_err(at)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next().map_err(at)? {
            if found.len() == ROWS_AT_ONCE || bytes > ROWS_BYTES_AT_ONCE {
                return Ok(Rows { found, more: true });
            }
            let (revision, records) = read_columns(row).map_err(at)?;
            bytes += records.len();
            found.push((revision, decode(self.path, revision, records)?));
        }
        Ok(Rows { found, more: false })
    }
}

/// Some rows in order.
pub(super) struct Rows {
    pub found: Vec<(Revision, Vec<Record>)>,
    /// Whether others follow.
    pub more: bool,
}

fn read_columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Revision, Bytes)> {
    let revision = row.get::<_, i64>(0)?.unsigned_abs();
    Ok((revision, Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?)))
}

fn read_row(
    connection: &Connection,
    path: &Path,
    revision: Revision,
) -> Result<Option<Vec<Record>>, StoreError> {
    let row = connection
        .prepare_cached("SELECT records FROM log WHERE revision = ?1")
        .and_then(|mut statement| {
            statement.query_row([revision as i64], |row| row.get::<_, Vec<u8>>(0)).optional()
        })
        .map_err(|error| store_error(path, &error))?;
    row.map(|row| decode(path, revision, row.into())).transpose()
}

fn decode(path: &Path, revision: Revision, row: Bytes) -> Result<Vec<Record>, StoreError> {
    record::decode(&row).map_err(|damage| StoreError::Corrupt {
        path: path.display().to_string(),
        detail: format!("the row of revision {revision} is unreadable ({})", damage.0),
    })
}

/// A new file's name is durable only with its directory.
fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| StoreError::Open {
        path: directory.display().to_string(),
        reason: error.to_string(),
    })
}

/// What an error of SQLite means to a caller.
pub(super) fn store_error(path: &Path, error: &rusqlite::Error) -> StoreError {
    let file = path.display().to_string();
    let rusqlite::Error::SqliteFailure(code, _) = error else {
        return StoreError::Corrupt { path: file, detail: error.to_string() };
    };
    match code.code {
        ErrorCode::DiskFull => full(&file),
        // The shared memory file beside the log could not grow.
        ErrorCode::SystemIoFailure if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => full(&file),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreError::Corrupt { path: file, detail: error.to_string() }
        }
        ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::Open {
            path: file,
            reason: format!(
                "{error}; check that the directory exists and belongs to the user who runs the server"
            ),
        },
        _ => StoreError::Unavailable {
            reason: format!("{file}: {error}; look for disk errors in the kernel log"),
        },
    }
}

fn full(file: &str) -> StoreError {
    StoreError::Full {
        reason: format!(
            "the file system of {file} is full; free some space there, writes then work again without a restart"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, value: &'static str) -> Record {
        Record::Put { key: key.into(), create_revision: 1, version: 1, former: None, value: value.into() }
    }

    fn append(log: &Log, revision: Revision, records: &[Record]) {
        log.begin().expect("begins");
        log.append(revision, &record::encode(records)).expect("appends");
        log.commit().expect("commits");
    }

    #[test]
    fn rows_survive_and_are_removed_record_by_record() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log.db");
        let (log, meta) = Log::open(&path).expect("opens");
        assert_eq!(meta, Meta::default());
        append(&log, 5, &[put("a", "1"), put("b", "2")]);
        append(&log, 9, &[put("c", "3")]);
        log.set("reserved", 100).expect("writes");
        drop(log);

        let (log, meta) = Log::open(&path).expect("opens again");
        assert_eq!(meta.reserved, 100);
        let readers = Readers::new(&path);
        let row = |revision| readers.with(|reader| reader.row(revision)).expect("reads");
        log.remove(&[Spot { revision: 5, index: 0 }, Spot { revision: 9, index: 0 }]).expect("removes");
        assert_eq!(row(5), Some(vec![Record::Removed, put("b", "2")]));
        assert_eq!(row(9), None);
        let mut replayed = Vec::new();
        log.replay(|revision, records| replayed.push((revision, records.len()))).expect("replays");
        assert_eq!(replayed, [(5, 2)]);
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("log.db");
        let foreign = Connection::open(&path).expect("opens");
        foreign.execute_batch("CREATE TABLE theirs (x)").expect("creates");
        drop(foreign);
        let error = Log::open(&path).err().expect("refused").to_string();
        assert!(error.contains("another program"), "{error}");

        std::fs::write(&path, vec![7; 20_000]).expect("writes");
        let error = Log::open(&path).err().expect("refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }

    #[test]
    fn a_damaged_row_is_found_on_replay() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (log, _) = Log::open(&directory.path().join("log.db")).expect("opens");
        append(&log, 5, &[put("a", "1")]);
        log.connection.execute("UPDATE log SET records = zeroblob(20)", []).expect("damages");
        let error = log.replay(|_, _| {}).expect_err("damaged").to_string();
        assert!(error.contains("revision 5") && error.contains("left as it is"), "{error}");
    }
}
