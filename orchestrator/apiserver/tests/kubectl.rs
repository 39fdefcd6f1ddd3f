//! The real kubectl against the server.

mod support;

use support::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_maps_live_their_life() {
    let server = Server::start().await;
    eprintln!("{}", server.ok(&["get", "--raw", "/api/v1/namespaces"]).await);
}
