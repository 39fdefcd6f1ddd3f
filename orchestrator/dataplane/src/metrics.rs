//! What the dataplane tells about itself: fill of maps, packets by reason, programming times.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use abi::{Hook, MetricValue, Reason, metric, names};
use prometheus::{
    Histogram, IntCounter, IntGauge, IntGaugeVec,
    core::{Collector as Collect, Desc},
    proto::MetricFamily,
};
use telemetry::Registry;

use crate::{
    conntrack::Walked,
    error::{Error, Result},
    sys,
    table::Map,
};

/// Programming a change: from a few map writes to a cold start with many thousand services.
const PROGRAMMING_SECONDS: &[f64] =
    &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Metrics that user space keeps. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    entries: IntGaugeVec,
    capacity: IntGaugeVec,
    removed: IntCounter,
    revision: IntGauge,
    apply: Histogram,
    programming: Histogram,
    shortfalls: IntGauge,
    unreadable: IntCounter,
}

/// Packets by reason and hook, as the programs count them: read when somebody asks.
#[derive(Debug)]
pub struct PacketCounters {
    map: Map<u32, MetricValue>,
    cpus: usize,
    packets: Desc,
    lost: Desc,
}

/// One of the programs' counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketCount {
    /// Why, `None` for what was forwarded.
    pub reason: Option<Reason>,
    /// Where.
    pub hook: Hook,
    /// How many.
    pub packets: u64,
    /// How much.
    pub bytes: u64,
}

// === impl Metrics ===

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Metrics {
            entries: registry.gauge_vec("bowsprit_map_entries", "Entries that an eBPF map holds.", &["map"]),
            capacity: registry.gauge_vec(
                "bowsprit_map_capacity",
                "Entries that an eBPF map has room for.",
                &["map"],
            ),
            removed: registry.counter(
                "bowsprit_conntrack_collected_total",
                "Connections removed because they were idle or over.",
            ),
            revision: registry
                .gauge("bowsprit_applied_revision", "Newest API revision that the kernel holds."),
            apply: registry.histogram(
                "bowsprit_apply_duration_seconds",
                "Time to write a plan's changes to the kernel.",
                PROGRAMMING_SECONDS,
            ),
            programming: registry.histogram(
                "network_programming_duration_seconds",
                "Time from a change being seen by the agent to the kernel holding it.",
                PROGRAMMING_SECONDS,
            ),
            shortfalls: registry.gauge(
                "bowsprit_map_shortfalls",
                "Maps that cannot hold what they should: what is missing is denied or rejected.",
            ),
            unreadable: registry.counter(
                "bowsprit_events_unreadable_total",
                "Datapath events of another version's programs.",
            ),
        }
    }

    pub(crate) fn fill(&self, fill: &[(&'static str, usize, u32)]) {
        for (map, entries, capacity) in fill {
            self.entries.with_label_values(&[map]).set(*entries as i64);
            self.capacity.with_label_values(&[map]).set(i64::from(*capacity));
        }
    }

    pub(crate) fn connections(&self, walked: &[Walked; 2]) {
        let maps = [names::CONNTRACK4.name, names::CONNTRACK6.name];
        for (map, walked) in maps.iter().zip(walked) {
            self.entries.with_label_values(&[map]).set(walked.live as i64);
            self.capacity.with_label_values(&[map]).set(walked.capacity as i64);
            self.removed.inc_by(walked.removed as u64);
        }
    }

    pub(crate) fn applied(&self, revision: u64, took: Duration, shortfalls: usize) {
        self.revision.set(revision as i64);
        self.apply.observe(took.as_secs_f64());
        self.shortfalls.set(shortfalls as i64);
    }

    pub(crate) fn event_unreadable(&self) {
        self.unreadable.inc();
    }

    /// Records how long a change took from being seen to being in the kernel.
    pub fn programmed(&self, took: Duration) {
        self.programming.observe(took.as_secs_f64());
    }
}

// === impl PacketCounters ===

impl PacketCounters {
    /// Opens the programs' counters.
    pub fn open(directory: &Path) -> Result<Self> {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new(name.into(), help.into(), labels, HashMap::new())
                .expect("invariant: the names are valid in prometheus")
        };
        Ok(PacketCounters {
            map: Map::open(directory, names::METRICS.name)?,
            cpus: possible_cpus()?,
            packets: desc(
                "bowsprit_packets_total",
                "Packets that the programs forwarded or dropped, by reason.",
                &["reason", "hook"],
            ),
            lost: desc("bowsprit_events_lost_total", "Datapath events that found the ring buffer full.", &[]),
        })
    }

    /// All counters that are not zero.
    pub fn read(&self) -> Result<Vec<PacketCount>> {
        let mut counts = Vec::new();
        for hook in Hook::ALL {
            for reason in std::iter::once(None).chain(Reason::ALL.iter().copied().map(Some)) {
                let number = reason.map_or(metric::FORWARDED, |reason| reason as u32);
                let value = self.sum(metric::index_of(number, *hook as u32))?;
                if value.packets > 0 {
                    let MetricValue { packets, bytes } = value;
                    counts.push(PacketCount { reason, hook: *hook, packets, bytes });
                }
            }
        }
        Ok(counts)
    }

    /// Events that found the ring buffer full.
    pub fn lost_events(&self) -> Result<u64> {
        Ok(self.sum(metric::LOST_EVENTS)?.packets)
    }

    fn sum(&self, index: u32) -> Result<MetricValue> {
        let mut values = vec![MetricValue::default(); self.cpus];
        sys::map_lookup(self.map.fd(), &index, values.as_mut_slice()).map_err(|source| Error::Bpf {
            call: "lookup",
            subject: names::METRICS.name.into(),
            source,
        })?;
        Ok(values.iter().fold(MetricValue::default(), |sum, value| MetricValue {
            packets: sum.packets + value.packets,
            bytes: sum.bytes + value.bytes,
        }))
    }
}

/// Lets prometheus read the counters when it gathers.
#[derive(Clone, Debug)]
pub struct PacketCollector(pub Arc<PacketCounters>);

impl Collect for PacketCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.packets, &self.0.lost]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let packets = prometheus::IntCounterVec::new(
            prometheus::Opts::new(self.0.packets.fq_name.clone(), self.0.packets.help.clone()),
            &["reason", "hook"],
        );
        let lost = IntCounter::new(self.0.lost.fq_name.clone(), self.0.lost.help.clone());
        let (Ok(packets), Ok(lost), Ok(counts), Ok(events)) =
            (packets, lost, self.0.read(), self.0.lost_events())
        else {
            return Vec::new();
        };
        for count in counts {
            let reason = count.reason.map_or("Forwarded", Reason::name);
            packets.with_label_values(&[reason, &format!("{:?}", count.hook)]).inc_by(count.packets);
        }
        lost.inc_by(events);
        packets.collect().into_iter().chain(lost.collect()).collect()
    }
}

/// The number of values that a per-CPU element has.
fn possible_cpus() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(path, source)| Error::file("reading", path)(source))
}
