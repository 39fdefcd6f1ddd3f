//! `bowsprit flows`: what all nodes see, with names.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write},
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use observe::{
    Columns, Filter, Line, Query,
    cluster::{self, Told},
};

use crate::kubeconfig::KubeconfigArguments;

/// What to show of the cluster's flows.
#[derive(Debug, Args)]
pub(crate) struct FlowsArguments {
    #[command(flatten)]
    access: KubeconfigArguments,
    /// Only flows with an end in this namespace.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Only flows with this end: a pod, Service or node, `NAME` or `NAMESPACE/NAME`. A Deployment's name stands for its pods.
    #[arg(long)]
    pod: Option<String>,
    /// Only flows from there: as `--pod`, or an address.
    #[arg(long, value_name = "END")]
    from: Option<String>,
    /// Only flows to there, also by way of a Service: as `--pod`, or an address.
    #[arg(long, value_name = "END")]
    to: Option<String>,
    /// Only what this node saw.
    #[arg(long)]
    node: Option<String>,
    /// Only what was dropped, with the policy and the line of code that decided it.
    #[arg(long)]
    drops: bool,
    /// Go on with what comes: the default on a terminal.
    #[arg(long, short, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    follow: Option<bool>,
    /// Begin with the newest so many that the nodes remember.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Begin with what came after this: `90s`, `5m`, `2h` ago, or a time such as 2026-01-02T03:04:05Z.
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<Since>,
    /// How a flow is written.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// How a flow is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

type Since = chrono::DateTime<chrono::Utc>;

fn since(text: &str) -> Result<Since, &'static str> {
    observe::moment(text, chrono::Utc::now())
}

/// Prints flows until the end, or until nobody reads them any more.
pub(crate) fn run(arguments: FlowsArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    match runtime.block_on(show(&arguments)) {
        // `bowsprit flows | head` is no error.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn show(arguments: &FlowsArguments) -> Result<()> {
    let client = arguments.access.connect()?;
    let mut out = std::io::stdout();
    let query = arguments.query(out.is_terminal());
    let only = arguments.node.as_deref();
    let mut printer =
        Printer { output: arguments.output, columns: Columns::default(), headed: !out.is_terminal() };
    let mut after = HashMap::new();
    let mut missing = 0;
    if query.wants_past() {
        let past = cluster::past(&client, &query, only).await?;
        printer.columns.fit(&past.lines);
        for line in &past.lines {
            printer.print(&mut out, line)?;
            after.insert(line.node().clone(), line.time());
        }
        missing = past.failures.len();
        for (node, error) in past.failures.into_iter().filter(|_| !query.follow) {
            eprintln!("node {node}: {:#}", anyhow!(error));
        }
    }
    if !query.follow {
        let nodes = if missing == 1 { "1 node" } else { &format!("{missing} nodes") };
        return if missing == 0 { Ok(()) } else { Err(anyhow!("the flows of {nodes} are missing")) };
    }
    if std::io::stderr().is_terminal() {
        eprintln!("following the flows of {}; Ctrl-C ends it", only.unwrap_or("all nodes"));
    }
    let mut told = cluster::follow(client, &query, only, after);
    while let Some(told) = told.recv().await {
        match told {
            Told::Line(line) => printer.print(&mut out, &line)?,
            Told::Trouble { node, error } => eprintln!("node {node}: {:#}; trying again", anyhow!(error)),
        }
    }
    bail!("the flows ended")
}

// === impl FlowsArguments ===

impl FlowsArguments {
    fn query(&self, terminal: bool) -> Query {
        let (mut namespace, mut pod) = (self.namespace.clone(), self.pod.clone());
        if let Some((of, name)) = self.pod.as_deref().and_then(|pod| pod.split_once('/')) {
            (namespace, pod) = (Some(of.to_owned()), Some(name.to_owned()));
        }
        Query {
            filter: Filter {
                namespace,
                pod,
                from: self.from.clone(),
                to: self.to.clone(),
                drops: self.drops,
            },
            follow: self.follow.unwrap_or(terminal),
            since: self.since,
            last: self.last,
        }
    }
}

/// Writes lines as they come; the columns of earlier lines are those of later ones.
struct Printer {
    output: Output,
    columns: Columns,
    /// The heading is there already, or there is nobody to read it.
    headed: bool,
}

// === impl Printer ===

impl Printer {
    fn print(&mut self, out: &mut impl Write, line: &Line) -> std::io::Result<()> {
        match self.output {
            Output::Json => out.write_all(&observe::http::encode(line)),
            Output::Text => {
                let text = self.columns.line(line);
                if !std::mem::replace(&mut self.headed, true) {
                    writeln!(out, "{}", self.columns.heading())?;
                }
                writeln!(out, "{text}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flows: FlowsArguments,
    }

    fn query(words: &[&str], terminal: bool) -> String {
        let words = std::iter::once(&"flows").chain(words);
        Command::try_parse_from(words).unwrap().flows.query(terminal).to_text()
    }

    #[test]
    fn flags_become_a_query() {
        let rows: [(&[&str], bool, &str); 7] = [
            (&[], true, "follow=true"),
            (&[], false, ""),
            (&["--drops", "--last", "20", "-f"], false, "drops=true&follow=true&last=20"),
            (
                &["--follow=false", "--since", "2026-01-02T03:04:05Z"],
                true,
                "since=2026-01-02T03%3A04%3A05.000000Z",
            ),
            (&["-n", "shop", "--pod", "web"], false, "namespace=shop&pod=web"),
            (&["-n", "other", "--pod", "shop/web"], false, "namespace=shop&pod=web"),
            (&["--from", "shop/web", "--to", "10.0.0.1"], false, "from=shop%2Fweb&to=10.0.0.1"),
        ];
        for (words, terminal, expected) in rows {
            assert_eq!(query(words, terminal), expected, "{words:?}");
        }
        let wrong =
            Command::try_parse_from(["flows", "--since", "soon"]).err().map(|error| error.to_string());
        assert!(wrong.is_some_and(|wrong| wrong.contains("such as 90s, 5m or 2h")));
    }
}
