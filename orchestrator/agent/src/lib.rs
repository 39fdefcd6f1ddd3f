//! The node: pods over CRI, volumes, probes, logs, exec, node status; API objects -> netplan's snapshot.
