//! An authority for certificates of tests.
#![allow(dead_code, reason = "each test file uses some of it")]

use rcgen::{CertifiedKey, generate_simple_self_signed};
use sealway_websocket::WebSocket;

/// It vouches for one key, that of this machine.
pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let names = ["localhost", "127.0.0.1"].map(String::from);
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        Self { certificate: cert.pem(), key: signing_key.serialize_pem() }
    }

    /// A transport that shows the certificate, and believes it.
    pub(crate) fn transport(&self) -> WebSocket {
        let websocket = WebSocket::default().trusting(self.certificate.as_bytes()).unwrap();
        websocket.set_certificate(self.certificate.as_bytes(), self.key.as_bytes()).unwrap();
        websocket
    }
}
