//! Short waits in the kernel while somebody waits for a pod.
//!
//! Attaching a program to a device, taking a device away, moving a process into a cgroup: each waits until every CPU has let
//! go of what it may still be looking at (an RCU grace period), 8 to 20 ms with a tick of 4 ms, and the first two of them
//! keep everybody else from all network devices meanwhile. The kernel can ask the CPUs instead, with an interrupt each, and
//! then has waited within a tenth of a millisecond. It has a switch for that, which holds for the whole machine; it is on only
//! while a [`Hurry`] lives. A machine that must not be interrupted is booted with `rcupdate.rcu_normal=1`, which is stronger.

use std::{fs, path::Path};

use parking_lot::Mutex;

/// Every number but 0 means yes.
const SWITCH: &str = "/sys/kernel/rcu_expedited";
/// Ours, so that a switch that somebody else has set stays as it is, and that of a predecessor that was killed does not.
const OURS: &str = "176";
const OFF: &str = "0";

/// While one of these lives, the kernel hurries.
#[derive(Debug)]
#[must_use = "the hurry is over when it is dropped"]
pub struct Hurry(());

#[derive(Debug)]
struct Holders {
    count: usize,
    /// Whether the switch was ours to set.
    set: bool,
}

static HOLDERS: Mutex<Holders> = Mutex::new(Holders { count: 0, set: false });

/// Begins a hurry, or joins the one that is on.
pub fn hurry() -> Hurry {
    HOLDERS.lock().join(Path::new(SWITCH));
    Hurry(())
}

impl Drop for Hurry {
    fn drop(&mut self) {
        HOLDERS.lock().leave(Path::new(SWITCH));
    }
}

// === impl Holders ===

impl Holders {
    fn join(&mut self, switch: &Path) {
        self.count += 1;
        if self.count == 1 {
            let free = fs::read_to_string(switch).is_ok_and(|held| [OFF, OURS].contains(&held.trim()));
            self.set = free && write(switch, OURS);
        }
    }

    fn leave(&mut self, switch: &Path) {
        self.count -= 1;
        // Another agent of this machine may have been first; then its pods wait a little longer.
        if self.count == 0 && std::mem::take(&mut self.set) {
            write(switch, OFF);
        }
    }
}

/// Without the right to write there (a read-only /sys) everything takes longer and works.
fn write(switch: &Path, value: &str) -> bool {
    let written = fs::write(switch, value);
    if let Err(error) = &written {
        tracing::debug!(%error, switch = %switch.display(), "the kernel is not made to hurry");
    }
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_while_somebody_hurries_and_only_when_it_is_ours() {
        for (before, during, after) in [("0\n", OURS, OFF), ("176\n", OURS, OFF), ("1\n", "1\n", "1\n")] {
            let directory = tempfile::tempdir().unwrap();
            let switch = directory.path().join("rcu_expedited");
            fs::write(&switch, before).unwrap();
            let held = || fs::read_to_string(&switch).unwrap();
            let mut holders = Holders { count: 0, set: false };
            holders.join(&switch);
            holders.join(&switch);
            holders.leave(&switch);
            assert_eq!(held(), during, "before: {before}");
            holders.leave(&switch);
            assert_eq!(held(), after, "before: {before}");
        }
    }

    #[test]
    fn without_a_switch_nothing_happens() {
        let mut holders = Holders { count: 0, set: false };
        holders.join(Path::new("/nonexistent/switch"));
        holders.leave(Path::new("/nonexistent/switch"));
        assert!(!holders.set);
    }
}
