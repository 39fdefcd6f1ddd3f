//! What runs in the pods of the examples and the tests: one static binary, several jobs.
//!
//! `serve` is an HTTP echo that names its pod and can be asked to call another address; `call` is one request from where
//! it is run; `load` opens new connections at a fixed rate and counts what failed, until `end` is run beside it; `pause` holds a pod's namespaces.
//! It uses nothing but the standard library, so that the image is one file of about a megabyte.

mod call;
mod end;
mod load;
mod netperf;
mod pause;
mod serve;
mod signals;

use std::process::ExitCode;

const USAGE: &str = "usage: workload serve [--port N] [--on-term drain|exit] [--delay-ready MS]
       workload call URL [--timeout-ms N]
       workload load URL --rate N --seconds N [--timeout-ms N] [--connections N]
       workload end
       workload tcp HOST:PORT
       workload net-serve [--port N]
       workload net-call HOST:PORT --kind connect|rr|stream --ms N
       workload pause";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    let mut rest: Vec<String> = arguments.collect();
    let job = if program.ends_with("pause") {
        "pause".to_owned()
    } else if rest.is_empty() {
        String::new()
    } else {
        rest.remove(0)
    };
    match job.as_str() {
        "serve" => serve::run(&Flags(rest)),
        "call" => call::run(&Flags(rest)),
        "tcp" => call::connect_only(&Flags(rest)),
        "load" => load::run(&Flags(rest)),
        "end" => end::run(),
        "net-serve" => netperf::serve(&Flags(rest)),
        "net-call" => netperf::call(&Flags(rest)),
        "pause" => pause::run(),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

/// The arguments after the job's name: one positional value and `--name value` pairs.
struct Flags(Vec<String>);

impl Flags {
    /// The value after `--name`, or `default`. A value that does not parse ends the program with code 64.
    fn get<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        let Some(at) = self.0.iter().position(|argument| argument == name) else { return default };
        match self.0.get(at + 1).map(|value| value.parse()) {
            Some(Ok(value)) => value,
            _ => {
                eprintln!("workload: {name} needs a value of another form\n{USAGE}");
                std::process::exit(64);
            }
        }
    }

    /// The first argument, when it is no flag.
    fn subject(&self) -> &str {
        match self.0.first() {
            Some(first) if !first.starts_with("--") => first,
            _ => {
                eprintln!("{USAGE}");
                std::process::exit(64);
            }
        }
    }
}
