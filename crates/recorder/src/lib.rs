//! Records what passes over links, as pcapng: for Wireshark, and for `sealway inspect`, which explains a frame.
//!
//! Frames are recorded as they are handed to the link and come from it: sealed, but for their first octets. What the medium makes of
//! them, packets and repetitions, is not seen; nor is that a link may say nothing to a stranger yet. Each link is an interface of the file, named
//! after its address; the link type is `LINKTYPE_USER0` (147), an octet string without a header; times are the system's, in
//! nanoseconds; the direction is in each packet's flags.
//!
//! ```no_run
//! # use sealway_link::Transport;
//! # fn record(tcp: impl Transport) -> std::io::Result<()> {
//! let recorder = sealway_recorder::Recorder::create("link.pcapng".as_ref())?;
//! let tcp = recorder.transport(tcp); // in the place of the transport
//! # Ok(())
//! # }
//! ```
//!
//! Writing waits for the disk where the link is polled: it is for finding out what is wrong, and not for always.
#![forbid(unsafe_code)]

mod file;
mod wrap;

pub use file::Recorder;
pub use wrap::{RecordedLink, RecordedListener, RecordedTransport};
