//! A runtime in memory: containers run until a test ends them. Serves the pod workers' tests and simulated nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::{
    ContainerConfig, ContainerRecord, ExecOutput, Exit, ImageRecord, PodConfig, PodInstance, PodRecord,
    PodRuntime, Readiness, RecordState, RuntimeError, RuntimeEvent, RuntimeInfo, StreamRequest,
};

/// Events that a test may cause before the agent reads them.
const EVENTS_PENDING_MAX: usize = 1024;

/// For how long the fakes wait for what a test expects: a machine with other things to do may take seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime in memory.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    down: bool,
    instances: BTreeMap<String, PodInstance>,
    containers: BTreeMap<String, (ContainerRecord, ContainerConfig)>,
    images: HashMap<String, ImageRecord>,
    exec_codes: HashMap<String, i32>,
    listeners: Vec<mpsc::Sender<RuntimeEvent>>,
    calls: Vec<String>,
    ignores_sigterm: bool,
}

// === impl FakeRuntime ===

impl FakeRuntime {
    /// Adds an image.
    pub fn add_image(&self, reference: &str) {
        let image = ImageRecord { id: format!("sha256:{reference}"), ..ImageRecord::default() };
        self.state.lock().images.insert(reference.to_owned(), image);
    }

    /// Answers nothing until turned on again, which also reconnects the events.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        if !down {
            self.send(RuntimeEvent::Connected);
        }
    }

    /// Containers end only by SIGKILL.
    pub fn set_ignores_sigterm(&self, ignores: bool) {
        self.state.lock().ignores_sigterm = ignores;
    }

    /// Exit code of commands run in containers of this name.
    pub fn set_exec_code(&self, container: &str, code: i32) {
        self.state.lock().exec_codes.insert(container.to_owned(), code);
    }

    /// Ends the running container of this name.
    pub fn exit(&self, name: &str, code: i32) {
        let id = self.running(name).unwrap_or_else(|| panic!("{name} does not run"));
        self.end(&id, code);
    }

    /// Ends an instance, as if its process was killed.
    pub fn kill_instance(&self, id: &str) {
        if let Some(instance) = self.state.lock().instances.get_mut(id) {
            instance.ready = false;
        }
        self.send(RuntimeEvent::Exited { id: id.to_owned(), code: 137, at: Utc::now() });
    }

    /// Id of the running container of this name.
    pub fn running(&self, name: &str) -> Option<String> {
        let state = self.state.lock();
        let mut found = state
            .containers
            .values()
            .filter(|(record, _)| record.name == name && matches!(record.state, RecordState::Running { .. }));
        found.next().map(|(record, _)| record.id.clone())
    }

    /// Waits until a container of this name runs; panics after a minute.
    pub async fn wait_running(&self, name: &str) -> ContainerConfig {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if let Some(id) = self.running(name) {
                    return self.state.lock().containers[&id].1.clone();
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("{name} never ran: {:?}", self.calls()))
    }

    /// Waits until the runtime holds no instance of any pod; panics after a minute.
    pub async fn wait_empty(&self) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.state.lock().instances.is_empty() {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "instances stay: {:?}", self.calls());
    }

    /// Calls that changed something, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    fn send(&self, event: RuntimeEvent) {
        for listener in &self.state.lock().listeners {
            // A test that lets a thousand events pile up should fail.
            listener.try_send(event.clone()).ok();
        }
        self.changed.notify_waiters();
    }

    fn end(&self, id: &str, code: i32) {
        let at = Utc::now();
        {
            let mut state = self.state.lock();
            let Some((record, _)) = state.containers.get_mut(id) else { return };
            let RecordState::Running { started_at } = record.state else { return };
            let reason = if code == 0 { "Completed" } else { "Error" };
            record.state = RecordState::Exited(Exit {
                code,
                reason: reason.to_owned(),
                message: String::new(),
                started_at: Some(started_at),
                finished_at: Some(at),
            });
        }
        self.send(RuntimeEvent::Exited { id: id.to_owned(), code, at });
    }

    /// Fails while down; else notes the call and hands out the state.
    fn call(&self, text: String) -> Result<parking_lot::MutexGuard<'_, State>, RuntimeError> {
        let mut state = self.state.lock();
        if state.down {
            return Err(RuntimeError::Unavailable { reason: "switched off by the test".to_owned() });
        }
        state.calls.push(text);
        Ok(state)
    }

    fn look(&self) -> Result<parking_lot::MutexGuard<'_, State>, RuntimeError> {
        let mut state = self.call(String::new())?;
        state.calls.pop();
        Ok(state)
    }
}

#[async_trait]
impl PodRuntime for FakeRuntime {
    async fn info(&self) -> Result<RuntimeInfo, RuntimeError> {
        drop(self.look()?);
        Ok(RuntimeInfo { name: "fake".to_owned(), version: "1".to_owned() })
    }

    async fn readiness(&self) -> Result<Readiness, RuntimeError> {
        drop(self.look()?);
        Ok(Readiness { runtime: true, network: true, message: String::new() })
    }

    async fn pods(&self) -> Result<Vec<PodRecord>, RuntimeError> {
        let state = self.look()?;
        let mut records: BTreeMap<String, PodRecord> = BTreeMap::new();
        for instance in state.instances.values().rev() {
            let record = records.entry(instance.pod.uid.clone()).or_default();
            record.pod = instance.pod.clone();
            record.instances.push(instance.clone());
        }
        for (container, _) in state.containers.values().rev() {
            let owner = state.instances.get(&container.instance_id).map(|instance| instance.pod.uid.clone());
            if let Some(record) = owner.and_then(|uid| records.get_mut(&uid)) {
                record.containers.push(container.clone());
            }
        }
        Ok(records.into_values().collect())
    }

    fn events(&self) -> mpsc::Receiver<RuntimeEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS_PENDING_MAX);
        sender.try_send(RuntimeEvent::Connected).expect("invariant: the channel is new");
        self.state.lock().listeners.push(sender);
        receiver
    }

    async fn create_pod(&self, config: &PodConfig) -> Result<PodInstance, RuntimeError> {
        let mut state = self.call(format!("create_pod {}", config.pod.name))?;
        state.next_id += 1;
        let number = state.next_id;
        let instance = PodInstance {
            id: format!("pod-{number:04}"),
            pod: config.pod.clone(),
            attempt: config.attempt,
            ready: true,
            ips: vec![std::net::Ipv4Addr::from(0x0af4_0000 + u32::try_from(number).unwrap_or(0)).into()],
            created_at: Some(Utc::now()),
        };
        state.instances.insert(instance.id.clone(), instance.clone());
        Ok(instance)
    }

    async fn stop_pod(&self, instance: &str) -> Result<(), RuntimeError> {
        let running: Vec<String> = {
            let mut state = self.call(format!("stop_pod {instance}"))?;
            if let Some(found) = state.instances.get_mut(instance) {
                found.ready = false;
            }
            let inside = state.containers.values().filter(|(record, _)| record.instance_id == instance);
            inside.map(|(record, _)| record.id.clone()).collect()
        };
        running.iter().for_each(|id| self.end(id, 137));
        self.changed.notify_waiters();
        Ok(())
    }

    async fn remove_pod(&self, instance: &str) -> Result<(), RuntimeError> {
        let mut state = self.call(format!("remove_pod {instance}"))?;
        state.instances.remove(instance);
        state.containers.retain(|_, (record, _)| record.instance_id != instance);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn start_container(
        &self,
        instance: &str,
        _pod: &PodConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let mut state = self.call(format!("start {}", container.name))?;
        if !state.instances.get(instance).is_some_and(|found| found.ready) {
            let reason = format!("instance {instance} is not ready");
            return Err(RuntimeError::Refused { call: "start_container", reason });
        }
        state.next_id += 1;
        let record = ContainerRecord {
            id: format!("container-{:04}", state.next_id),
            instance_id: instance.to_owned(),
            name: container.name.clone(),
            attempt: container.attempt,
            image_id: container.image_id.clone(),
            state: RecordState::Running { started_at: Utc::now() },
            annotations: container.annotations.clone(),
            log_path: container.log_path.clone(),
        };
        let id = record.id.clone();
        state.containers.insert(id.clone(), (record, container.clone()));
        drop(state);
        self.changed.notify_waiters();
        Ok(id)
    }

    async fn container(&self, id: &str) -> Result<ContainerRecord, RuntimeError> {
        let state = self.look()?;
        let found = state.containers.get(id).map(|(record, _)| record.clone());
        found.ok_or_else(|| RuntimeError::NotFound { call: "container", reason: id.to_owned() })
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let ignores = self.call(format!("stop {id} {}", grace.as_secs()))?.ignores_sigterm;
        if ignores {
            tokio::time::sleep(grace).await;
        }
        self.end(id, if ignores { 137 } else { 143 });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(format!("remove {id}"))?.containers.remove(id);
        Ok(())
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(format!("reopen_log {id}")).map(drop)
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        _timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let state = self.call(format!("exec {}", command.join(" ")))?;
        let name = state.containers.get(id).map(|(record, _)| record.name.clone()).unwrap_or_default();
        let code = state.exec_codes.get(&name).copied().unwrap_or(0);
        Ok(ExecOutput { code, output: b"from the fake".to_vec() })
    }

    async fn stream_url(&self, _request: &StreamRequest) -> Result<String, RuntimeError> {
        let reason = "the fake runtime has no streams".to_owned();
        Err(RuntimeError::Refused { call: "stream_url", reason })
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageRecord>, RuntimeError> {
        Ok(self.look()?.images.get(reference).cloned())
    }

    async fn pull_image(&self, reference: &str) -> Result<(), RuntimeError> {
        let mut state = self.call(format!("pull {reference}"))?;
        if reference.contains("absent") {
            let reason = format!("failed to resolve reference {reference:?}: no such host");
            return Err(RuntimeError::Refused { call: "PullImage", reason });
        }
        let image = ImageRecord { id: format!("sha256:{reference}"), ..ImageRecord::default() };
        state.images.insert(reference.to_owned(), image);
        Ok(())
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        Ok(self.look()?.images.values().cloned().collect())
    }

    async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        self.call(format!("remove_image {id}"))?.images.retain(|_, image| image.id != id);
        Ok(())
    }
}
