//! TCP does what every link does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use sealway_link::Transport as _;
use sealway_tcp::Tcp;
use sealway_testkit::links::conform;
use sealway_wire::Address;

#[tokio::test]
async fn tcp_is_a_link() {
    conform(async || {
        let tcp = Tcp::default();
        let mut listener = tcp.listen(&Address::parse("tcp://127.0.0.1:0").unwrap()).await.unwrap();
        let address = listener.address();
        let address = Address::parse(&address).unwrap();
        let (client, server) = tokio::join!(tcp.connect(&address), listener.accept());
        [client.unwrap(), server.unwrap()]
    })
    .await;
}
