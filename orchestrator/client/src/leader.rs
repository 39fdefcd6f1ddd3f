//! Leader election: of several servers, one at a time holds a Lease and with it runs scheduler and controllers.
//!
//! The clock that matters is the candidate's own: a lease counts as lost by its holder when the candidate has seen it
//! unchanged for the lease's whole duration. Clocks of different machines are never compared.
use std::time::Duration;

use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{Client, Error, Meta, backoff::jitter, objects::rfc3339_micros};

/// How long a silent holder keeps its lease: what the cluster goes without scheduler and controllers after a kill -9.
/// Kubernetes waits twice as long; a lease here is not written to disk and renewed on time also on a busy machine.
const LEASE_DURATION: Duration = Duration::from_secs(8);
/// A holder that could not renew for this long stops leading, before another may start.
const RENEW_DEADLINE: Duration = Duration::from_secs(6);
/// Between attempts.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What to hold, and as whom.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Who we are. Stable over restarts of one server: it then takes its own lease up again without waiting.
    pub identity: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Lease {
    metadata: Meta,
    spec: LeaseSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LeaseSpec {
    holder_identity: Option<String>,
    renew_time: Option<String>,
    acquire_time: Option<String>,
    lease_transitions: Option<i64>,
    lease_duration_seconds: Option<u64>,
}

crate::resource!(Lease: "coordination.k8s.io" / "v1" / "leases", "Lease", namespaced);

/// Runs `lead` while leading, for ever: when leadership is lost, the future is dropped, and made anew when it is won.
pub async fn run_while_leading<F, L>(client: &Client, election: &Election, mut lead: L)
where
    F: Future<Output = ()>,
    L: FnMut() -> F,
{
    let (sender, mut leading) = watch::channel(false);
    let campaign = campaign(client, election, sender);
    let serve = async {
        loop {
            if leading.wait_for(|leading| *leading).await.is_err() {
                return;
            }
            tokio::select! {
                () = lead() => {}
                _ = leading.wait_for(|leading| !leading) => {}
            }
        }
    };
    tokio::join!(campaign, serve);
}

/// Says in `leading` whether we lead. Never returns.
pub async fn campaign(client: &Client, election: &Election, leading: watch::Sender<bool>) {
    let mut candidate = Candidate { client, election, seen: None };
    let mut renewed = None;
    loop {
        let started = Instant::now();
        let won = match timeout(RENEW_DEADLINE, candidate.attempt()).await {
            Ok(Ok(won)) => {
                renewed = won.then_some(started);
                won
            }
            // A failure says nothing about who leads; a leader goes on until its deadline.
            failed => {
                if let Ok(Err(error)) = failed {
                    tracing::debug!(lease = election.name, error = error.chain(), "cannot renew the lease");
                }
                renewed.is_some_and(|at: Instant| at.elapsed() < RENEW_DEADLINE)
            }
        };
        if leading.send_if_modified(|leading| std::mem::replace(leading, won) != won) {
            tracing::info!(
                lease = election.name,
                identity = election.identity,
                leading = won,
                "leadership changed"
            );
        }
        sleep(jitter(RETRY_PERIOD / 2, RETRY_PERIOD)).await;
    }
}

/// Gives the lease back if it is ours, so that another server takes over without waiting for it to run out.
pub async fn resign(client: &Client, election: &Election) -> Result<(), Error> {
    let lease = client.get::<Lease>(&election.namespace, &election.name).await?;
    if lease.spec.holder_identity.as_deref() != Some(&election.identity) {
        return Ok(());
    }
    let mut object = object(election, &lease.spec, Some(&lease.metadata));
    object["spec"]["holderIdentity"] = "".into();
    client.replace::<Lease>(&election.namespace, &election.name, None, &object).await.map(drop)
}

struct Candidate<'a> {
    client: &'a Client,
    election: &'a Election,
    /// The lease as it was last seen, and since when it has not changed.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate<'_> {
    /// One look at the lease, and one write if it is ours or free. Returns whether it is ours now.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let Election { namespace, name, identity } = self.election;
        let lease = match self.client.get::<Lease>(namespace, name).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => {
                let object = object(self.election, &LeaseSpec::default(), None);
                return self.settle(self.client.create::<Lease>(namespace, &object).await);
            }
            Err(error) => return Err(error),
        };
        let holder = lease.spec.holder_identity.as_deref().unwrap_or_default();
        if holder != identity && !holder.is_empty() && !self.ran_out(&lease.spec) {
            return Ok(false);
        }
        let object = object(self.election, &lease.spec, Some(&lease.metadata));
        self.settle(self.client.replace::<Lease>(namespace, name, None, &object).await)
    }

    fn ran_out(&mut self, spec: &LeaseSpec) -> bool {
        let duration = spec.lease_duration_seconds.map_or(LEASE_DURATION, Duration::from_secs);
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed() > duration,
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    /// A conflict means that another was faster, which is an answer and not a failure.
    fn settle(&mut self, written: Result<Lease, Error>) -> Result<bool, Error> {
        match written {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn object(election: &Election, old: &LeaseSpec, meta: Option<&Meta>) -> Value {
    let now = rfc3339_micros(Utc::now());
    let ours = old.holder_identity.as_deref() == Some(&election.identity);
    let transitions = old.lease_transitions.unwrap_or_default() + i64::from(meta.is_some() && !ours);
    let acquired = old.acquire_time.clone().filter(|_| ours).unwrap_or_else(|| now.clone());
    let mut object = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": election.name, "namespace": election.namespace },
        "spec": {
            "holderIdentity": election.identity,
            "leaseDurationSeconds": LEASE_DURATION.as_secs(),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        },
    });
    if let Some(meta) = meta {
        // The write succeeds only if nobody else wrote meanwhile.
        object["metadata"]["resourceVersion"] = meta.resource_version.to_string().into();
    }
    object
}
