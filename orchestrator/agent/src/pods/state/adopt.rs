//! Rebuilds a pod's state after a restart of the agent (or of the whole node) from what the runtime holds and what was
//! last reported. Nothing that runs is touched; nothing that ended runs again unless it should.

use super::*;

impl PodState {
    /// The state of a pod that this node may have run before.
    pub fn adopt(pod: &Pod, record: Option<&PodRecord>, limits: RestartLimits, now: Instant) -> Self {
        let mut state = PodState::new(pod, limits);
        let status = &pod.status;
        state.start_time = status.start_time.unwrap_or(state.start_time);
        state.ips = status.pod_ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
        if let Some(record) = record {
            state.adopt_instances(record);
        }
        let over = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        for container in &mut state.containers {
            let mut records = record.into_iter().flat_map(|record| &record.containers);
            let mut own = records.by_ref().filter(|found| found.name == container.name);
            let reported = status
                .init_container_statuses
                .iter()
                .chain(&status.container_statuses)
                .find(|reported| reported.name == container.name);
            match (own.next(), reported) {
                (Some(newest), _) => container.adopt_record(newest, own.next(), reported, now),
                (None, Some(reported)) => container.adopt_report(reported, over, now),
                (None, None) => {}
            }
        }
        state.assume_inits_done();
        state
    }

    fn adopt_instances(&mut self, record: &PodRecord) {
        let mut instances = record.instances.iter();
        let Some(newest) = instances.next() else { return };
        self.old_instances = instances.map(|instance| instance.id.clone()).collect();
        if newest.ready {
            self.instance_created(newest.clone());
        } else {
            self.attempts = newest.attempt + 1;
            self.instance = Instance::Dead { id: newest.id.clone() };
        }
    }

    /// Init containers that the runtime has forgotten were done when a later container has run.
    fn assume_inits_done(&mut self) {
        let has_run = |container: &ContainerState| !matches!(container.run, Run::Waiting);
        let Some(latest) = self.containers.iter().rposition(has_run) else { return };
        for container in self.containers[..latest].iter_mut() {
            if container.role == Role::Init && matches!(container.run, Run::Waiting) {
                let exit = Exit { code: 0, reason: "Completed".to_owned(), ..lost("") };
                container.run = Run::Exited(Ended { id: String::new(), exit });
            }
        }
    }
}

impl ContainerState {
    fn adopt_record(
        &mut self,
        newest: &ContainerRecord,
        before: Option<&ContainerRecord>,
        reported: Option<&ContainerStatus>,
        now: Instant,
    ) {
        self.attempt = newest.attempt + 1;
        self.image_id.clone_from(&newest.image_id);
        if let Some(ContainerRecord { id, state: RecordState::Exited(exit), .. }) = before {
            self.last = Some(Ended { id: id.clone(), exit: exit.clone() });
        }
        match &newest.state {
            // A start that was cut off: the run is made again, under the next number.
            RecordState::Created => {
                self.run = self.last.take().map_or(Run::Waiting, Run::Exited);
            }
            RecordState::Running { started_at } => {
                let same = reported.filter(|reported| {
                    reported.container_id.as_deref().is_some_and(|known| known.ends_with(&newest.id))
                });
                // What was last reported holds until a probe says otherwise: a restart must not shake readiness.
                self.started = same.is_some_and(|reported| reported.started == Some(true));
                self.ready = same.is_some_and(|reported| reported.ready);
                let (id, started_at) = (newest.id.clone(), *started_at);
                self.run = Run::Running { id, started_at, stopping: false, out_of_memory: false };
            }
            RecordState::Exited(exit) => {
                self.run = Run::Exited(Ended { id: newest.id.clone(), exit: exit.clone() });
                self.backoff.fail(now);
            }
        }
    }

    /// The runtime knows nothing: the node lost its containers. What was running has ended somehow.
    fn adopt_report(&mut self, reported: &ContainerStatus, over: bool, now: Instant) {
        let Some(id) = reported.container_id.as_deref() else { return };
        self.attempt = reported.restart_count + 1;
        self.image_id.clone_from(&reported.image_id);
        let exit = match &reported.state.terminated {
            Some(terminated) => exit_of(terminated),
            None if over => Exit { code: 0, reason: "Completed".to_owned(), ..lost("") },
            None => lost("it is gone since the node restarted"),
        };
        let id = id.rsplit('/').next().unwrap_or(id).to_owned();
        self.run = Run::Exited(Ended { id, exit });
        self.backoff.fail(now);
    }
}

fn exit_of(report: &TerminatedReport) -> Exit {
    Exit {
        code: report.exit_code,
        reason: report.reason.clone(),
        message: report.message.clone().unwrap_or_default(),
        started_at: report.started_at,
        finished_at: report.finished_at,
    }
}
