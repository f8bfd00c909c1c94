//! The media that the program speaks.

use std::path::Path;

use sealway::{Recorder, Serial, Tcp, Transport, Udp, WebSocket};

use crate::{
    arguments::{Ways, Web},
    failure::Failure,
};

/// Every medium: the transports of a node or a gateway.
pub(crate) struct Media {
    tcp: Tcp,
    udp: Udp,
    serial: Serial,
    websocket: WebSocket,
    recorder: Option<Recorder>,
}

impl Media {
    /// As the options say, and the environment as far as proxies go.
    pub(crate) fn new(web: &Web, record: Option<&Path>) -> Result<Self, Failure> {
        let given = |error: &dyn std::fmt::Display| Failure::given(error.to_string());
        let mut websocket = WebSocket::default().through_environment();
        if let Some(path) = &web.authority {
            websocket = websocket.trusting(&read(path)?).map_err(|error| given(&error).about(path))?;
        }
        for proxy in &web.behind {
            websocket = websocket.behind(*proxy);
        }
        let recorder = record.map(|path| Recorder::create(path).map_err(|error| Failure::given(error).about(path)));
        let (tcp, udp, serial) = (Tcp::default(), Udp::default(), Serial::default());
        let media = Self { tcp, udp, serial, websocket, recorder: recorder.transpose()? };
        media.show(web)?;
        Ok(media)
    }

    /// The same, from the port that the options name.
    pub(crate) fn by(self, ways: Ways) -> Self {
        let udp = self.udp.from_local_port(ways.udp_port.unwrap_or(0));
        Self { udp, ..self }
    }

    /// What a node or a gateway is given.
    pub(crate) fn transports(&self) -> Vec<Box<dyn Transport>> {
        let Self { tcp, udp, serial, websocket, recorder } = self;
        let all: [Box<dyn Transport>; 4] =
            [Box::new(tcp.clone()), Box::new(udp.clone()), Box::new(serial.clone()), Box::new(websocket.clone())];
        let recorded = |transport: Box<dyn Transport>| -> Box<dyn Transport> {
            match recorder {
                Some(recorder) => Box::new(recorder.transport(transport)),
                None => transport,
            }
        };
        all.into_iter().map(recorded).collect()
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
