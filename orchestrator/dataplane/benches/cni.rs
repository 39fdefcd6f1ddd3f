//! How long CNI ADD takes while many pods start at once. Needs root; `cargo xtask bench cni`.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

#[path = "../tests/nodes/rig.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod nodes;

use netplan::snapshot::Routing;
use nodes::Rig;
use rig::figures::{Bar, Figures, ms, quantile};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const RUNS: usize = 3;
const PODS: usize = 100;
/// As many at a time as a runtime starts with profit.
const AT_ONCE: usize = 4;

fn main() {
    let mut figures = Figures::begin("cni", "ADD while 100 pods start on one node");
    let (mut p50s, mut p99s, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (mut times, took) = burst();
        p50s.push(ms(quantile(&mut times, 0.5)));
        p99s.push(ms(quantile(&mut times, 0.99)));
        all.push(took.as_secs_f64());
    }
    figures.add("ADD, p50", "ms", &p50s, None);
    figures.add("ADD, p99", "ms", &p99s, Bar::AtMost(100.0));
    figures.add(&format!("{PODS} pods"), "s", &all, None);
    figures.finish().expect("the figures can be written");
}

fn burst() -> (Vec<Duration>, Duration) {
    let rig = Rig::new(1, Routing::Vxlan);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= PODS {
                        return;
                    }
                    let pod = rig.timed_pod(0, &format!("pod-{number}"));
                    done.lock().unwrap().push(pod);
                }
            });
        }
    });
    let took = started.elapsed();
    // The pods live until here: a namespace that ends would take time of those that start.
    let (_pods, times) = done.into_inner().unwrap().into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    (times, took)
}
