//! CNI: a plugin that only carries a request to the agent, and the agent's side that does the work.
//!
//! The plugin process (`bowsprit cni`) lives for milliseconds: it reads its environment and standard input, asks the agent over a
//! unix socket, prints the answer. Everything that can fail is on the agent's side, where it is logged with its cause.

mod answer;
mod loopback;
mod plugin;
mod request;
mod server;

pub(crate) use self::answer::result;
pub use self::{
    answer::{CniError, code},
    loopback::LOOPBACK,
    plugin::{is_plugin_call, plugin_main},
    request::{Command, Request},
    server::{Handler, Server},
};

/// The type name in CNI configurations, and the name by which the binary knows that it is the plugin.
pub const PLUGIN: &str = "bowsprit-cni";

/// CNI versions that we speak, oldest first.
pub const VERSIONS: &[&str] = &["0.3.1", "0.4.0", "1.0.0"];

/// The largest request or answer: the runtime's configuration and an earlier result, some kilobytes.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// The network configuration list that the runtime reads, for an agent that listens on `socket`.
pub fn configuration(socket: &std::path::Path) -> String {
    let list = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "bowsprit",
        "plugins": [{ "type": PLUGIN, "socket": socket }],
    });
    format!("{list:#}\n")
}
