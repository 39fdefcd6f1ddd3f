//! New connections at a fixed rate, each with one request, until the time is over or SIGTERM comes; then prints one line of
//! JSON: how many, how many failed and how.
//!
//! The rate is open-loop: a slow answer does not slow down the next connection, so that a stall is seen as failures and
//! latency, not as fewer requests.

use crate::call::{self, Url};
use crate::{Flags, signals};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Failures and slow answers that are told one by one: enough to see whether they came together.
const DETAILS_MAX: usize = 20;
/// From here on an answer is slow: close below the second after which TCP sends a lost SYN again.
const SLOW: Duration = Duration::from_millis(900);

#[derive(Default)]
struct Tally {
    failures: BTreeMap<&'static str, u64>,
    answered_by: BTreeMap<String, u64>,
    latencies_us: Vec<u64>,
    first_failures: Vec<String>,
    slow: u64,
    first_slow: Vec<String>,
}

pub(crate) fn run(flags: &Flags) -> ExitCode {
    let url = flags.subject().to_owned();
    let rate: u64 = flags.get("--rate", 100).max(1);
    let seconds: u64 = flags.get("--seconds", 1);
    let timeout = Duration::from_millis(flags.get("--timeout-ms", 2000));
    // Each worker takes the next slot of the schedule: enough of them that all may hang until their time limit.
    let workers: u64 = flags.get("--connections", (rate * 2).clamp(8, 512));
    let slots = rate * seconds;
    signals::install();
    let next = Arc::new(AtomicU64::new(0));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let start = Instant::now();
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (url, next, tally) = (url.clone(), Arc::clone(&next), Arc::clone(&tally));
            std::thread::spawn(move || {
                loop {
                    let slot = next.fetch_add(1, Ordering::Relaxed);
                    if slot >= slots {
                        return;
                    }
                    let due = start + Duration::from_micros(slot * 1_000_000 / rate);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if signals::terminating() {
                        return;
                    }
                    one(&url, timeout, start, &tally);
                }
            })
        })
        .collect();
    for thread in threads {
        if thread.join().is_err() {
            eprintln!("workload: a worker panicked");
            return ExitCode::FAILURE;
        }
    }
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    report(start.elapsed(), tally)
}

fn one(url: &str, timeout: Duration, start: Instant, tally: &Mutex<Tally>) {
    let began = Instant::now();
    let result = call::get(&Url::parse(url), timeout);
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok((200, body)) => {
            tally.latencies_us.push(took);
            let pod = body
                .split_whitespace()
                .next()
                .and_then(|word| word.strip_prefix("pod="))
                .unwrap_or("?")
                .to_owned();
            if began.elapsed() >= SLOW {
                tally.slow(describe(&format!("answer of {pod}"), start, began));
            }
            *tally.answered_by.entry(pod).or_default() += 1;
        }
        Ok((status, _)) => tally.fail("status", format!("status {status} after {:?}", start.elapsed())),
        Err(failure) => tally.fail(failure.word(), describe(failure.word(), start, began)),
    }
}

fn describe(what: &str, start: Instant, began: Instant) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (at, took) = (began - start, began.elapsed());
    format!("{what} at {at:.2?}, took {took:.1?}, until {:.3} since 1970", now.as_secs_f64())
}

impl Tally {
    fn fail(&mut self, word: &'static str, detail: String) {
        *self.failures.entry(word).or_default() += 1;
        if self.first_failures.len() < DETAILS_MAX {
            self.first_failures.push(detail);
        }
    }

    fn slow(&mut self, detail: String) {
        self.slow += 1;
        if self.first_slow.len() < DETAILS_MAX {
            self.first_slow.push(detail);
        }
    }
}

fn report(took: Duration, mut tally: Tally) -> ExitCode {
    tally.latencies_us.sort_unstable();
    let at = |share: f64| {
        let last = tally.latencies_us.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below a length"
        )]
        let index = (last as f64 * share) as usize;
        tally.latencies_us.get(index).copied().unwrap_or(0)
    };
    let failed: u64 = tally.failures.values().sum();
    let total = tally.latencies_us.len() as u64 + failed;
    let quoted = |details: &[String]| {
        details.iter().map(|detail| format!("\"{detail}\"")).collect::<Vec<_>>().join(",")
    };
    let pairs = |map: Vec<(String, u64)>| {
        map.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect::<Vec<_>>().join(",")
    };
    println!(
        "{{\"requests\":{total},\"failed\":{failed},\"seconds\":{:.2},\"p50_us\":{},\"p99_us\":{},\"max_us\":{},\"failures\":{{{}}},\"pods\":{{{}}},\"first_failures\":[{}],\"slow\":{},\"first_slow\":[{}]}}",
        took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(1.0),
        pairs(tally.failures.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()),
        pairs(tally.answered_by.clone().into_iter().collect()),
        quoted(&tally.first_failures),
        tally.slow,
        quoted(&tally.first_slow),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
