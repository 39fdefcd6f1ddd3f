//! Reads one log file the way `kubectl logs` asks for it: from a time or the last lines, with or without times, up to a
//! number of bytes, and following until the container has ended. A file that is rotated away while followed is read to
//! its end before the new one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::{LogWatcher, parse};

/// Bytes gathered before they are sent on: few system calls on long logs, little memory on many.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks that wait for a slow reader.
pub const CHUNKS_PENDING_MAX: usize = 4;
/// Bytes read at once while looking for the last lines.
const BLOCK_BYTES: u64 = 16 << 10;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// Go on until the container has ended.
    pub follow: bool,
    /// Only so many last lines.
    pub tail: Option<u64>,
    /// Nothing older.
    pub since: Option<DateTime<Utc>>,
    /// Put its time before each line.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only `stdout` or `stderr`.
    pub stream: Option<String>,
}

/// Says whether a container still writes to its log.
pub type IsRunning = Box<dyn Fn() -> bool + Send>;

/// Sends the log to `sender`, until its end or until nobody listens.
pub async fn send(
    path: PathBuf,
    options: LogOptions,
    watcher: LogWatcher,
    is_running: IsRunning,
    sender: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/")).to_path_buf();
    // Watched before it is read: nothing can be written unseen between the two.
    let watched = if options.follow { Some(watcher.watch(&directory)?) } else { None };
    let mut log = Log::open(&path, options)?;
    loop {
        let changed = watched.as_ref().map(|watched| watched.changed.clone());
        let notified = changed.as_ref().map(|changed| changed.notified());
        let mut notified = std::pin::pin!(notified);
        if let Some(notified) = notified.as_mut().as_pin_mut() {
            notified.enable();
        }
        let ended = !is_running();
        while let Some(chunk) = log.next_chunk()? {
            if sender.send(chunk).await.is_err() {
                return Ok(());
            }
        }
        if log.is_full() || ended {
            return Ok(());
        }
        if log.was_rotated(&path)? {
            continue;
        }
        let Some(notified) = notified.as_pin_mut() else { return Ok(()) };
        tokio::select! {
            () = notified => {}
            () = sender.closed() => return Ok(()),
            // The end of a container is no change of its log.
            () = tokio::time::sleep(END_CHECK) => {}
        }
    }
}

/// How late a follower may learn that the container has ended.
const END_CHECK: std::time::Duration = std::time::Duration::from_millis(500);

/// An open log file.
struct Log {
    file: BufReader<File>,
    inode: u64,
    options: LogOptions,
    /// Bytes that may still be sent.
    left: u64,
    /// The last entry of each stream did not end its line: the next one gets no time.
    within_line: [bool; 2],
    /// An entry whose end was not written yet.
    unfinished: Vec<u8>,
}

// === impl Log ===

impl Log {
    fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let inode = file.metadata()?.ino();
        if let Some(lines) = options.tail {
            let start = start_of_last(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Ok(Log {
            file: BufReader::new(file),
            inode,
            options,
            left,
            within_line: [false; 2],
            unfinished: Vec::new(),
        })
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }

    /// The next bytes to send; `None` at the present end.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES && self.left > 0 {
            let mut line = std::mem::take(&mut self.unfinished);
            self.file.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                self.unfinished = line;
                break;
            }
            self.append(&line, &mut chunk);
        }
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }

    fn append(&mut self, line: &[u8], chunk: &mut Vec<u8>) {
        let Some(entry) = parse(line) else { return };
        if self.options.stream.as_deref().is_some_and(|wanted| wanted != entry.stream) {
            return;
        }
        if self.options.since.is_some_and(|since| entry.at().is_none_or(|at| at < since)) {
            return;
        }
        let within = &mut self.within_line[usize::from(entry.stream == "stderr")];
        let before = chunk.len();
        if self.options.timestamps && !*within {
            chunk.extend_from_slice(entry.time.as_bytes());
            chunk.push(b' ');
        }
        chunk.extend_from_slice(entry.content);
        if !entry.partial {
            chunk.push(b'\n');
        }
        *within = entry.partial;
        let added = chunk.len() - before;
        let kept = added.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        chunk.truncate(before + kept);
        self.left -= kept as u64;
    }

    /// True when another file has taken the place of the one that was read to its end; it is then open.
    fn was_rotated(&mut self, path: &Path) -> io::Result<bool> {
        match std::fs::metadata(path) {
            Ok(found) if found.ino() != self.inode => {}
            Ok(_) => return Ok(false),
            // Between the rename and the runtime's reopening there is no file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let file = File::open(path)?;
        self.inode = file.metadata()?.ino();
        self.file = BufReader::new(file);
        self.unfinished.clear();
        Ok(true)
    }
}

/// Offset of the first of the last `lines` lines.
fn start_of_last(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut block = Vec::new();
    let length = end;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.take(end - start).read_to_end(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            let offset = start + index as u64;
            // The newline at the very end closes the last line, it does not begin another.
            if *byte == b'\n' && offset + 1 < length {
                found += 1;
                if found == lines {
                    return Ok(offset + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    const LINES: &str = "\
2026-01-01T00:00:01Z stdout F one\n\
2026-01-01T00:00:02Z stderr F err\n\
2026-01-01T00:00:03Z stdout P tw\n\
2026-01-01T00:00:03Z stdout F o\n\
2026-01-01T00:00:04Z stdout F three\n";

    async fn read(path: &Path, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(1);
        let watcher = LogWatcher::start().expect("inotify");
        let task = tokio::spawn(send(path.to_path_buf(), options, watcher, Box::new(|| false), sender));
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.extend_from_slice(&chunk);
        }
        task.await.expect("no panic").expect("read");
        String::from_utf8(all).expect("text")
    }

    #[tokio::test]
    async fn options_select_what_is_sent() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        std::fs::write(&path, LINES).expect("written");
        let plain = LogOptions::default();
        let cases = [
            (plain.clone(), "one\nerr\ntwo\nthree\n"),
            (LogOptions { tail: Some(1), ..plain.clone() }, "three\n"),
            (LogOptions { tail: Some(0), ..plain.clone() }, ""),
            (LogOptions { tail: Some(99), ..plain.clone() }, "one\nerr\ntwo\nthree\n"),
            (LogOptions { since: "2026-01-01T00:00:03Z".parse().ok(), ..plain.clone() }, "two\nthree\n"),
            (LogOptions { limit_bytes: Some(6), ..plain.clone() }, "one\ner"),
            (LogOptions { stream: Some("stderr".into()), ..plain.clone() }, "err\n"),
            (
                LogOptions { timestamps: true, tail: Some(3), ..plain },
                "2026-01-01T00:00:03Z two\n2026-01-01T00:00:04Z three\n",
            ),
        ];
        for (options, expected) in cases {
            assert_eq!(read(&path, options.clone()).await, expected, "{options:?}");
        }
    }

    #[test]
    fn last_lines_are_found_across_blocks() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        let lines: String = (0..5000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, &lines).expect("written");
        let mut file = File::open(&path).expect("open");
        for wanted in [1, 100, 4999] {
            let start = start_of_last(&mut file, wanted).expect("found");
            let rest = &lines[usize::try_from(start).expect("small")..];
            assert_eq!(rest.lines().count() as u64, wanted);
        }
    }

    #[tokio::test]
    async fn following_goes_over_rotation_and_ends_with_the_container() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:01Z stdout F {text}\n");
        std::fs::write(&path, line("a")).expect("written");
        let running = Arc::new(AtomicBool::new(true));
        let asked = running.clone();
        let (sender, mut receiver) = mpsc::channel(8);
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let watcher = LogWatcher::start().expect("inotify");
        let is_running: IsRunning = Box::new(move || asked.load(Ordering::SeqCst));
        let task = tokio::spawn(send(path.clone(), options, watcher, is_running, sender));
        assert_eq!(receiver.recv().await.as_deref(), Some(&b"a\n"[..]));
        let mut old = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
        write!(old, "{}", line("b")).expect("written");
        assert_eq!(receiver.recv().await.as_deref(), Some(&b"b\n"[..]));
        std::fs::rename(&path, directory.path().join("0.log.old")).expect("renamed");
        write!(old, "{}", line("c")).expect("written");
        assert_eq!(receiver.recv().await.as_deref(), Some(&b"c\n"[..]));
        std::fs::write(&path, line("d")).expect("written");
        assert_eq!(receiver.recv().await.as_deref(), Some(&b"d\n"[..]));
        running.store(false, Ordering::SeqCst);
        let end = tokio::time::timeout(Duration::from_secs(60), receiver.recv()).await.expect("it ends");
        assert_eq!(end, None);
        task.await.expect("no panic").expect("read");
    }
}
