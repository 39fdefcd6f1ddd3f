//! Holds a pod's namespaces open, reaps orphans when it is process 1 of a shared PID namespace, ends on SIGTERM.

use crate::signals;
use std::process::ExitCode;

extern "C" fn on_child(_: libc::c_int) {
    // SAFETY: waitpid(2) is async-signal-safe; WNOHANG returns when there is nothing left to reap.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

pub(crate) fn run() -> ExitCode {
    let end = signals::install();
    // SAFETY: the handler only calls waitpid(2).
    unsafe { libc::signal(libc::SIGCHLD, on_child as *const () as libc::sighandler_t) };
    signals::wait(&end);
    ExitCode::SUCCESS
}
