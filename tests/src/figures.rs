//! Figures: what a bench measured beside the bar it is held to, printed as a table and kept as JSON.
//!
//! All benches write into one file, `target/bench/figures.json`, each its own section.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Says where `figures.json` is kept.
const DIRECTORY: &str = "BOWSPRIT_FIGURES";

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Bar {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", number(most)),
            Self::AtLeast(least) => format!(">= {}", number(least)),
        }
    }
}

/// The figures of one bench, printed as they come.
#[derive(Debug)]
pub struct Figures {
    bench: String,
    rows: Vec<Value>,
    missed: usize,
    load_before: String,
}

impl Figures {
    /// Begins the table of a bench.
    #[must_use]
    pub fn begin(bench: &str, about: &str) -> Self {
        let load_before = load();
        println!("\n{bench}: {about} (load average {load_before})\n");
        println!("{:<50}{:>10} {:<13}{:>21}  {:>10}", "", "median", "", "min .. max", "bar");
        Self { bench: bench.to_owned(), rows: Vec::new(), missed: 0, load_before }
    }

    /// A figure from its samples: their median counts.
    pub fn add(&mut self, name: &str, unit: &str, samples: &[f64], bar: impl Into<Option<Bar>>) {
        let bar = bar.into();
        let value = median(samples);
        let (least, most) =
            samples.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), sample| {
                (least.min(*sample), most.max(*sample))
            });
        let range =
            if samples.len() > 1 { format!("{} .. {}", number(least), number(most)) } else { String::new() };
        let met = bar.map(|bar| bar.is_met_by(value));
        self.missed += usize::from(met == Some(false));
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let line = format!(
            "{name:<50}{:>10} {unit:<13}{range:>21}  {:>10} {verdict}",
            number(value),
            bar.map_or_else(String::new, Bar::text)
        );
        println!("{}", line.trim_end());
        self.rows.push(json!({
            "name": name, "unit": unit, "median": value, "min": least, "max": most, "samples": samples.len(),
            "bar": bar.map(Bar::text), "met": met,
        }));
    }

    /// Ends the table and writes this bench's section of `figures.json`.
    ///
    /// # Errors
    /// When the file cannot be written, or another program wrote something else there.
    pub fn finish(self) -> Result<()> {
        let file = directory().join("figures.json");
        let load_after = load();
        println!("\nload average {load_after} at the end; {} bars missed; {}", self.missed, file.display());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let section = json!({
            "unix_time": now.as_secs(), "load_before": self.load_before, "load_after": load_after,
            "figures": self.rows,
        });
        write(&file, &self.bench, section)
    }
}

fn directory() -> PathBuf {
    std::env::var_os(DIRECTORY).map_or_else(|| "target/bench".into(), PathBuf::from)
}

fn write(file: &Path, bench: &str, section: Value) -> Result<()> {
    let mut all: Map<String, Value> = match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{} holds something else: remove it", file.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    all.insert(bench.to_owned(), section);
    let directory = file.parent().context("the file lies in a directory")?;
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(file, serde_json::to_vec_pretty(&all)?))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The middle of several runs; zero when there are none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// The value below which `share` of the samples lie; zero when there are none.
pub fn quantile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below a length"
    )]
    let index = (samples.len().saturating_sub(1) as f64 * share).round() as usize;
    samples.get(index).copied().unwrap_or_default()
}

/// Milliseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// User and system time that a process has used.
#[must_use]
pub fn cpu_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf(3) only reads a constant of the system.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    Duration::from_millis(ticks * 1000 / per_second)
}

/// How busy the machine was with other things too: the three load averages.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Three digits that count, without an exponent.
fn number(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 || size == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_told() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
        let mut samples: Vec<Duration> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut samples, 0.99), Duration::from_millis(100));
    }

    #[test]
    fn bars_are_inclusive() {
        assert!(Bar::AtMost(1.0).is_met_by(1.0) && !Bar::AtMost(1.0).is_met_by(1.1));
        assert!(Bar::AtLeast(1.0).is_met_by(1.0) && !Bar::AtLeast(1.0).is_met_by(0.9));
    }

    #[test]
    fn benches_share_a_file() {
        let directory = std::env::temp_dir().join(format!("bowsprit-figures-{}", std::process::id()));
        let file = directory.join("figures.json");
        write(&file, "one", json!({ "figures": [1] })).expect("it is written");
        write(&file, "two", json!({ "figures": [2] })).expect("it is written");
        write(&file, "one", json!({ "figures": [3] })).expect("it is written");
        let all: Value = serde_json::from_slice(&std::fs::read(&file).expect("it is there")).expect("JSON");
        std::fs::remove_dir_all(&directory).expect("it is ours");
        assert_eq!(all, json!({ "one": { "figures": [3] }, "two": { "figures": [2] } }));
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in
            [(0.0, "0.00"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")]
        {
            assert_eq!(number(value), text);
        }
    }
}
