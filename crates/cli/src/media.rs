//! The media that the program speaks.

use std::path::Path;

use sealway::{Serial, Tcp, Udp, WebSocket};

use crate::{arguments::Web, failure::Failure};

/// Every medium: the transports of a node or a gateway.
#[derive(Clone)]
pub(crate) struct Media {
    pub(crate) tcp: Tcp,
    pub(crate) udp: Udp,
    pub(crate) serial: Serial,
    pub(crate) websocket: WebSocket,
}

impl Media {
    /// As the options say, and the environment as far as proxies go.
    pub(crate) fn new(web: &Web) -> Result<Self, Failure> {
        let given = |error: &dyn std::fmt::Display| Failure::given(error.to_string());
        let mut websocket = WebSocket::default().through_environment();
        if let Some(path) = &web.authority {
            websocket = websocket.trusting(&read(path)?).map_err(|error| given(&error).about(path))?;
        }
        for proxy in &web.behind {
            websocket = websocket.behind(*proxy);
        }
        let media = Self { tcp: Tcp::default(), udp: Udp::default(), serial: Serial::default(), websocket };
        media.show(web)?;
        Ok(media)
    }

    /// Shows the certificate from now on that the options name, as it is now.
    pub(crate) fn show(&self, web: &Web) -> Result<(), Failure> {
        let (Some(certificate), Some(key)) = (&web.certificate, &web.key) else { return Ok(()) };
        let shown = self.websocket.set_certificate(&read(certificate)?, &read(key)?);
        shown.map_err(|error| Failure::given(error).about(certificate))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::given(error).about(path))
}

/// What stays of new options when the certificate was taken over, for a comparison with the old ones.
pub(crate) fn taken_over(old: &Web, new: &Web) -> Web {
    Web { certificate: old.certificate.clone(), key: old.key.clone(), ..new.clone() }
}
