//! What a node counts. One list: what is counted is also told, by [`Statistics::each`].

use sealway_channel::FrameError;

/// Whether a figure only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows, from the start of the node.
    Counter,
    /// It says how much of something there is now.
    Gauge,
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistic {
    /// Its name, in snake case.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// What it counts.
    pub help: &'static str,
    /// Its value.
    pub value: u64,
}

macro_rules! statistics {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident,)*) => {
        /// What a node has counted since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Statistics {
            $($(#[doc = $help])+ pub $name: u64,)*
        }

        impl Statistics {
            /// All figures, for whoever exports them.
            pub fn each(&self) -> impl Iterator<Item = Statistic> + use<> {
                [$(Statistic {
                    name: stringify!($name),
                    kind: Kind::$kind,
                    help: concat!($($help),+).trim_ascii(),
                    value: self.$name,
                },)*].into_iter()
            }
        }
    };
}

statistics! {
    /// Links that are up.
    links: Gauge,
    /// Times that a connection to a relay was not read for a while because more had come than its rate.
    held_back_links: Counter,
    /// Handshakes that others have begun and not finished.
    half_open_handshakes: Gauge,
    /// Letters that were sealed for peers with whom there is no session.
    letters_sent: Counter,
    /// Letters of others that have opened.
    letters_received: Counter,
    /// Sessions that were opened, or have replaced one.
    sessions: Counter,
    /// Times that a peer was reached without the relay.
    direct_ways: Counter,
    /// Peers that are sent to without the relay now.
    direct_peers: Gauge,
    /// Times that two devices seem to share the keys of one pairing, or one has gone back to an older state.
    suspected_clones: Counter,
    /// Frames that were refused, for whatever reason.
    refused_frames: Counter,
    /// Frames that are none of this protocol.
    malformed_frames: Counter,
    /// First messages of somebody who does not have our card.
    strangers: Counter,
    /// First messages that were answered with the wish for a cookie.
    wanted_cookies: Counter,
    /// First messages of a source that has begun too many handshakes just now.
    throttled_handshakes: Counter,
    /// Handshakes of somebody who has our card and whom policy does not admit.
    refused_peers: Counter,
    /// Frames that came before, or are too old.
    replayed_frames: Counter,
    /// Frames whose tag does not verify.
    forged_frames: Counter,
    /// Frames of no connection of ours.
    unknown_connections: Counter,
    /// Connections that were turned away, because too many wait to authenticate.
    refused_links: Counter,
    /// Frames that found their link's queue full, or no link.
    dropped_frames: Counter,
    /// Frames that a relay passed on.
    forwarded_frames: Counter,
    /// Frames for boxes at which nobody was attached.
    absent_frames: Counter,
    /// Frames of clients with a label that a relay does not know.
    unknown_labels: Counter,
    /// Frames of clients with a route that a relay does not go.
    refused_routes: Counter,
    /// Boxes that a relay has refused.
    refused_boxes: Counter,
    /// Clients that are attached to a relay.
    attached_clients: Gauge,
    /// Messages handed to the application.
    delivered_messages: Counter,
    /// Messages that had been committed before and came again.
    repeated_messages: Counter,
    /// Datagrams that have come, and wait for the application or were taken by it.
    delivered_datagrams: Counter,
    /// Datagrams of the application that had no way to the peer any more, and datagrams of peers that nobody took.
    dropped_datagrams: Counter,
    /// Frames that a relay has taken into custody.
    kept_frames: Counter,
    /// Frames that a relay has not taken into custody: quotas, boxes that there are not, a disk that failed.
    refused_deposits: Counter,
    /// Frames in custody that a relay has pushed to their recipients, each time counted.
    pushed_frames: Counter,
    /// Frames in custody that a relay has deleted because their recipients could not use them.
    discarded_frames: Counter,
    /// Frames in custody that a relay has deleted because their time was over.
    expired_frames: Counter,
    /// Frames that a relay has in custody now.
    frames_in_custody: Gauge,
    /// Octets that a relay has in custody now, 512 for each frame included.
    octets_in_custody: Gauge,
    /// Writes to the store that failed.
    failed_writes: Counter,
    /// 1 if the last write to the store has failed.
    store_is_down: Gauge,
}

impl Statistics {
    /// Counts a frame that was refused, by its reason too.
    pub(crate) const fn refused(&mut self, error: &FrameError) {
        self.refused_frames += 1;
        let of_reason = match error {
            FrameError::Decode(_) => &mut self.malformed_frames,
            FrameError::Gate => &mut self.strangers,
            FrameError::CookieWanted => &mut self.wanted_cookies,
            FrameError::Throttled => &mut self.throttled_handshakes,
            FrameError::Handshake(sealway_channel::HandshakeError::Identity(_)) | FrameError::NotAdmitted => {
                &mut self.refused_peers
            }
            FrameError::Replayed | FrameError::TooFarAhead => &mut self.replayed_frames,
            FrameError::Rejected | FrameError::Handshake(_) => &mut self.forged_frames,
            FrameError::UnknownConnection => &mut self.unknown_connections,
            _ => return,
        };
        *of_reason += 1;
    }
}
