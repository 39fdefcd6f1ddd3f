//! Probes of one running container: startup first, then liveness and readiness side by side. Each counts its own
//! successes and failures and tells its worker when the verdict turns.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::actions::{Target, perform};
use super::worker::Input;
use crate::objects::Probe;

/// Before its first success a container is asked sooner than its period says, with these pauses: most servers listen
/// within milliseconds, and a period of ten seconds would keep them from traffic for as long. These early attempts
/// count as successes but never as failures.
const EARLY_PAUSES: &[Duration] = &[
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Holds back the others.
    Startup,
    /// Restarts the container.
    Liveness,
    /// Decides about traffic.
    Readiness,
}

impl ProbeKind {
    /// As events spell it.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// What a probe tells its worker.
#[derive(Debug)]
pub struct ProbeReport {
    /// Run that was probed.
    pub id: String,
    /// Which probe.
    pub kind: ProbeKind,
    /// What is new.
    pub news: ProbeNews,
}

/// What is new about a container.
#[derive(Debug)]
pub enum ProbeNews {
    /// The verdict turned to well.
    Well,
    /// An attempt failed; the verdict stands.
    Failed(String),
    /// The verdict turned to bad.
    Bad(String),
}

/// Runs the probes of one container until dropped.
pub struct Probes {
    _tasks: JoinSet<()>,
}

impl Probes {
    /// Begins. With `started` the startup probe has passed already; `ready` is the standing verdict.
    pub fn begin(target: Target, started: bool, ready: bool, inputs: mpsc::Sender<Input>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let container = target.container.clone();
            if let Some(startup) = container.startup_probe.as_ref().filter(|_| !started)
                && !watch(&target, ProbeKind::Startup, startup, false, true, &inputs).await
            {
                return;
            }
            let liveness = async {
                if let Some(probe) = &container.liveness_probe {
                    watch(&target, ProbeKind::Liveness, probe, true, false, &inputs).await;
                }
            };
            let readiness = async {
                if let Some(probe) = &container.readiness_probe {
                    watch(&target, ProbeKind::Readiness, probe, ready, false, &inputs).await;
                }
            };
            futures::join!(liveness, readiness);
        });
        Probes { _tasks: tasks }
    }
}

/// Probes until the verdict turns to well (with `once`), for ever (without), or until nobody listens. True for the first.
async fn watch(
    target: &Target,
    kind: ProbeKind,
    probe: &Probe,
    mut well: bool,
    once: bool,
    inputs: &mpsc::Sender<Input>,
) -> bool {
    tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
    let period = Duration::from_secs(probe.period_seconds.max(1));
    let timeout = Duration::from_secs(probe.timeout_seconds.max(1));
    let mut early = if kind == ProbeKind::Liveness || well { &[][..] } else { EARLY_PAUSES };
    let (mut successes, mut failures) = (0, 0);
    loop {
        let began = tokio::time::Instant::now();
        let result = perform(target, &probe.handler, timeout).await;
        let news = match result {
            Ok(()) => {
                (successes, failures) = (successes + 1, 0);
                early = &[];
                let turned = !well && successes >= probe.success_threshold.max(1);
                well |= turned;
                turned.then_some(ProbeNews::Well)
            }
            Err(_) if !early.is_empty() => None,
            Err(why) => {
                (successes, failures) = (0, failures + 1);
                // A verdict can turn to bad again and again for liveness: the worker decides each time.
                if failures >= probe.failure_threshold.max(1) && (well || kind == ProbeKind::Startup) {
                    well = kind == ProbeKind::Liveness;
                    failures = 0;
                    Some(ProbeNews::Bad(why))
                } else {
                    Some(ProbeNews::Failed(why))
                }
            }
        };
        if let Some(news) = news {
            let report = ProbeReport { id: target.id.clone(), kind, news };
            if inputs.send(Input::Probe(report)).await.is_err() {
                return false;
            }
        }
        if once && well {
            return true;
        }
        let pause = match early.split_first() {
            Some((pause, rest)) => {
                early = rest;
                (*pause).min(period)
            }
            None => period.saturating_sub(began.elapsed()),
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::objects::{Container, ExecAction, Handler};
    use crate::runtime::fake::FakeRuntime;
    use crate::runtime::{ContainerConfig, PodConfig, PodRuntime};

    async fn target(container: Container) -> (FakeRuntime, Target) {
        let runtime = FakeRuntime::default();
        let pod = PodConfig::default();
        let instance = runtime.create_pod(&pod).await.expect("made");
        let config = ContainerConfig { name: container.name.clone(), ..ContainerConfig::default() };
        let id = runtime.start_container(&instance.id, &pod, &config).await.expect("started");
        let target =
            Target { ip: None, id, container: Arc::new(container), runtime: Arc::new(runtime.clone()) };
        (runtime, target)
    }

    fn probe(threshold: u32) -> Option<Probe> {
        let exec = Some(ExecAction { command: vec!["true".into()] });
        let handler = Handler { exec, ..Handler::default() };
        Some(Probe { handler, period_seconds: 1, failure_threshold: threshold, ..Probe::default() })
    }

    async fn next(inputs: &mut mpsc::Receiver<Input>) -> (ProbeKind, String) {
        match inputs.recv().await {
            Some(Input::Probe(report)) => (report.kind, format!("{:?}", report.news)),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_turns_both_ways_at_its_thresholds() {
        let container = Container { name: "a".into(), readiness_probe: probe(2), ..Container::default() };
        let (runtime, target) = target(container).await;
        let (sender, mut inputs) = mpsc::channel(8);
        let _probes = Probes::begin(target, true, false, sender);
        assert_eq!(next(&mut inputs).await, (ProbeKind::Readiness, "Well".into()));
        runtime.set_exec_code("a", 1);
        assert_eq!(next(&mut inputs).await.1, "Failed(\"from the fake\")");
        assert_eq!(next(&mut inputs).await.1, "Bad(\"from the fake\")");
        assert_eq!(next(&mut inputs).await.1, "Failed(\"from the fake\")");
        runtime.set_exec_code("a", 0);
        assert_eq!(next(&mut inputs).await.1, "Well");
    }

    #[tokio::test(start_paused = true)]
    async fn startup_holds_liveness_back_and_early_failures_do_not_count() {
        let container = Container {
            name: "a".into(),
            startup_probe: probe(1),
            liveness_probe: probe(1),
            ..Container::default()
        };
        let (runtime, target) = target(container).await;
        runtime.set_exec_code("a", 1);
        let (sender, mut inputs) = mpsc::channel(8);
        let began = tokio::time::Instant::now();
        let _probes = Probes::begin(target, false, false, sender);
        tokio::time::sleep(Duration::from_millis(300)).await;
        runtime.set_exec_code("a", 0);
        assert_eq!(next(&mut inputs).await, (ProbeKind::Startup, "Well".into()));
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        runtime.set_exec_code("a", 1);
        assert_eq!(next(&mut inputs).await, (ProbeKind::Liveness, "Bad(\"from the fake\")".into()));
    }
}
