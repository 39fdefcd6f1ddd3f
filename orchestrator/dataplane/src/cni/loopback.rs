//! The plugin `loopback`: runtimes call it for every sandbox before the real one, to bring `lo` up.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    answer::{Answer, CniError, code},
    request::Request,
};
use crate::{netlink::Netlink, netns};

/// The name under which runtimes look for it.
pub const LOOPBACK: &str = "loopback";
/// Its device's index in every network namespace.
const INDEX: u32 = 1;

/// Answers a call without an agent: there is nothing to decide.
pub(super) fn answer(request: &Request) -> Answer {
    match request.command.as_str() {
        "ADD" => match bring_up(Path::new(&request.netns)) {
            Ok(()) => Answer::Result(result(request)),
            Err(error) => Answer::Error(CniError::new(code::NETWORK, format!("cannot bring lo up: {error}"))),
        },
        // The device goes with its namespace.
        _ => Answer::Result(Value::Null),
    }
}

fn bring_up(netns: &Path) -> crate::Result<()> {
    netns::inside(netns, || Netlink::open()?.set_up(INDEX))
}

fn result(request: &Request) -> Value {
    json!({
        "cniVersion": request.version(),
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": request.netns }],
        "ips": [
            { "interface": 0, "address": "127.0.0.1/8" },
            { "interface": 0, "address": "::1/128" },
        ],
    })
}
