//! Is a node's kernel alive while its agent is away? It is, if it answers at all where the agent listens: a refusal is an answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::nodelink::HEARTBEAT;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Hub;

/// An answer that takes longer is none: with the pause before the next question, two fit into the silence that is allowed.
const ANSWER_MAX: Duration = Duration::from_millis(250);

/// Tells `hub` of every sign of life of a node whose agent closed `link`, as long as it wants to know.
pub(super) async fn watch(hub: Arc<Hub>, node: String, link: u64, address: SocketAddr) {
    loop {
        let wanted = if answers(address).await { hub.pulse(&node, link) } else { hub.is_closed(&node, link) };
        if !wanted {
            return;
        }
        sleep(HEARTBEAT).await;
    }
}

async fn answers(address: SocketAddr) -> bool {
    match timeout(ANSWER_MAX, TcpStream::connect(address)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_is_an_answer_and_silence_is_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(answers(address).await);
        drop(listener);
        assert!(answers(address).await, "the kernel refuses");
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let mut tries = 0;
        // Nobody accepts: once the queue is full the kernel says nothing.
        while answers(address).await {
            tries += 1;
            assert!(tries < 10, "the queue has room for two");
        }
    }
}
