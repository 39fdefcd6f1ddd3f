//! `rig keep` and `rig hold`: the two processes of the rig itself, see `rig::keeper` and `rig::namespaces`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["keep", spec, pid_file] => rig::keeper::keep(Path::new(spec), Path::new(pid_file)),
        ["hold", ready] => rig::namespaces::hold(Path::new(ready)),
        _ => {
            eprintln!("usage: rig keep SPEC PID_FILE | rig hold FILE");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}
