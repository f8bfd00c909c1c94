//! WebSockets do what every link does, plain and over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod authority;

use authority::Authority;
use sealway_link::{FrameLink, Transport as _};
use sealway_testkit::links::conform;
use sealway_websocket::WebSocket;
use sealway_wire::Address;

async fn pair(websocket: &WebSocket, address: &str) -> [Box<dyn FrameLink>; 2] {
    let mut listener = websocket.listen(&Address::parse(address).unwrap()).await.unwrap();
    let address = listener.address();
    let address = Address::parse(&address).unwrap();
    let (client, server) = tokio::join!(websocket.connect(&address), listener.accept());
    [client.unwrap(), server.unwrap()]
}

#[tokio::test]
async fn a_websocket_is_a_link() {
    let websocket = WebSocket::default();
    conform(async || pair(&websocket, "ws://127.0.0.1:0/sealway").await).await;
    conform(async || pair(&websocket, "ws://[::1]:0").await).await;
}

#[tokio::test]
async fn a_websocket_over_tls_is_a_link() {
    let websocket = Authority::new().transport();
    conform(async || pair(&websocket, "wss://127.0.0.1:0/sealway").await).await;
}
