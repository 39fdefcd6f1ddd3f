//! Liveness and readiness: named checks, and guards that block readiness until they are dropped.
//!
//! A part that is not ready holds a [`Guard`]; forgetting to report readiness is then impossible, and a part that
//! panicked before it was ready drops its guard only together with the process.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// A check: says why not.
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Which of the two questions a check answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only `/readyz`: do not send requests here now.
    Ready,
    /// `/livez` too: restarting the process would help.
    Live,
}

/// The health of a process. Clones share it.
#[derive(Clone)]
pub struct Health(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// How many guards are held; [`Health::ready`] waits for 0.
    blocked: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    checks: Vec<(String, Scope, Check)>,
    /// Of each guard's name: why it blocks, or `None` once dropped.
    guards: BTreeMap<String, Option<String>>,
    shutting_down: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Health ===

impl Health {
    /// Alive and ready, until somebody blocks.
    pub fn new() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), blocked: watch::Sender::new(0) }))
    }

    /// Blocks readiness until the guard is dropped. Names are unique while held; a later guard of a name replaces its line.
    pub fn block(&self, name: impl Into<String>) -> Guard {
        let name = name.into();
        self.0.state.lock().guards.insert(name.clone(), Some("not yet started".into()));
        self.0.blocked.send_modify(|held| *held += 1);
        Guard { health: self.clone(), name }
    }

    /// Adds a check, evaluated at each question: it must answer at once, from what is already known.
    pub fn check<F>(&self, name: impl Into<String>, scope: Scope, check: F)
    where
        F: Fn() -> Result<(), String> + Send + Sync + 'static,
    {
        self.0.state.lock().checks.push((name.into(), scope, Box::new(check)));
    }

    /// From now on not ready, for load balancers to go elsewhere while requests drain.
    pub fn shut_down(&self) {
        self.0.state.lock().shutting_down = true;
    }

    /// Waits until no guard is held.
    pub async fn ready(&self) {
        let mut blocked = self.0.blocked.subscribe();
        // The sender lives in self, so that waiting cannot fail.
        let _ = blocked.wait_for(|held| *held == 0).await;
    }

    /// Whether to restart this process.
    pub fn live(&self) -> Report {
        let state = self.0.state.lock();
        Report { question: "livez", lines: state.checks(|scope| scope == Scope::Live) }
    }

    /// Whether to send requests here.
    pub fn readiness(&self) -> Report {
        let state = self.0.state.lock();
        let mut lines = state.checks(|_| true);
        lines.extend(
            state.guards.iter().map(|(name, reason)| Line { name: name.clone(), failure: reason.clone() }),
        );
        let shutdown = state.shutting_down.then(|| "the process is shutting down".to_owned());
        lines.push(Line { name: "shutdown".into(), failure: shutdown });
        Report { question: "readyz", lines }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.readiness().fmt(f)
    }
}

// === impl State ===

impl State {
    fn checks(&self, asked: impl Fn(Scope) -> bool) -> Vec<Line> {
        let ping = Line { name: "ping".into(), failure: None };
        let checks = self.checks.iter().filter(|(_, scope, _)| asked(*scope));
        std::iter::once(ping)
            .chain(checks.map(|(name, _, check)| Line { name: name.clone(), failure: check().err() }))
            .collect()
    }
}

/// Blocks readiness while it lives.
#[must_use = "readiness is blocked only while the guard is held"]
pub struct Guard {
    health: Health,
    name: String,
}

// === impl Guard ===

impl Guard {
    /// Says what it is waiting for, shown by `/readyz?verbose`.
    pub fn waiting_for(&self, what: impl Into<String>) {
        self.health.0.state.lock().guards.insert(self.name.clone(), Some(what.into()));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.health.0.state.lock().guards.insert(std::mem::take(&mut self.name), None);
        self.health.0.blocked.send_modify(|held| *held -= 1);
    }
}

/// One check's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The check's name.
    pub name: String,
    /// Why it failed.
    pub failure: Option<String>,
}

/// The outcome of all checks of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    question: &'static str,
    lines: Vec<Line>,
}

// === impl Report ===

impl Report {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.lines.iter().all(|line| line.failure.is_none())
    }

    /// One check alone, as `/readyz/NAME` asks for it.
    pub fn only(mut self, name: &str) -> Option<Self> {
        self.lines.retain(|line| line.name == name);
        (!self.lines.is_empty()).then_some(self)
    }

    /// Without the named checks; returns the names that match none.
    pub fn exclude(&mut self, names: &[String]) -> Vec<String> {
        let unknown =
            names.iter().filter(|name| self.lines.iter().all(|line| line.name != **name)).cloned().collect();
        self.lines.retain(|line| !names.contains(&line.name));
        unknown
    }

    /// Every check a line, then the verdict, as Kubernetes prints it, with the reasons.
    pub fn verbose(&self) -> String {
        let mut text = String::new();
        for Line { name, failure } in &self.lines {
            // Writing to a String cannot fail.
            let _ = match failure {
                None => writeln!(text, "[+]{name} ok"),
                Some(reason) => writeln!(text, "[-]{name} failed: {reason}"),
            };
        }
        let verdict = if self.passed() { "passed" } else { "failed" };
        let _ = writeln!(text, "{} check {verdict}", self.question);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn guards_block_until_dropped() {
        let health = Health::new();
        let caches = health.block("caches");
        let kernel = health.block("dataplane");
        caches.waiting_for("the list of pods");
        assert_eq!(
            health.readiness().verbose(),
            "[+]ping ok\n[-]caches failed: the list of pods\n[-]dataplane failed: not yet started\n[+]shutdown ok\nreadyz check failed\n"
        );
        assert!(health.live().passed(), "a process that starts is alive");
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.ready().await }
        });
        drop(kernel);
        drop(caches);
        waiting.await.expect("ready");
        assert!(health.readiness().passed());
        health.shut_down();
        assert!(!health.readiness().passed() && health.live().passed());
    }

    #[test]
    fn checks_are_asked_each_time() {
        let health = Health::new();
        let up = Arc::new(AtomicBool::new(true));
        let asked = up.clone();
        health.check("store", Scope::Ready, move || {
            asked.load(Ordering::Relaxed).then_some(()).ok_or("etcd is down".into())
        });
        assert!(health.readiness().passed());
        up.store(false, Ordering::Relaxed);
        assert!(!health.readiness().passed() && health.live().passed());
        let mut report = health.readiness();
        assert_eq!(report.exclude(&["store".into(), "nope".into()]), ["nope"]);
        assert!(report.passed());
        assert!(health.readiness().only("store").is_some_and(|report| !report.passed()));
        assert!(health.readiness().only("nope").is_none());
    }
}
