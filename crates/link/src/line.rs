//! Frames on a line of octets that may lose and alter some: COBS with a CRC.
//!
//! ```text
//! line   ( 0x00* | COBS( frame | CRC ) | 0x00 )*
//! ```
//!
//! COBS (Cheshire and Baker, "Consistent overhead byte stuffing", SIGCOMM 1997) takes all zeros out, at the cost of one octet in
//! 254; a zero is thus always the end of a frame, and a receiver that begins in the middle of one, or has lost some of it, is
//! in step again at the next. The CRC drops what noise has altered before anybody computes on it; it protects from nobody.

use alloc::vec::Vec;

use crc::{CRC_16_IBM_SDLC, Crc};

use crate::Frames;

const CRC_16: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_SDLC);

/// Which CRC stands behind each frame, big-endian. The longest frame of the line decides it, so that both ends agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// CRC-16/X-25, where no frame is longer than [`SHORT`].
    Crc16,
    /// CRC-32, that of Ethernet.
    Crc32,
}

/// Lines whose frames are not longer have a CRC of 2 octets instead of 4.
pub const SHORT: usize = 256;

impl Check {
    const fn of(mtu: usize) -> Self {
        if mtu <= SHORT { Self::Crc16 } else { Self::Crc32 }
    }

    fn append(self, frame: &mut Vec<u8>) {
        match self {
            Self::Crc16 => frame.extend_from_slice(&CRC_16.checksum(frame).to_be_bytes()),
            Self::Crc32 => frame.extend_from_slice(&crc32fast::hash(frame).to_be_bytes()),
        }
    }

    /// The frame without its CRC, if that is right.
    fn strip(self, octets: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Crc16 => {
                let (frame, crc) = octets.split_last_chunk()?;
                (CRC_16.checksum(frame) == u16::from_be_bytes(*crc)).then_some(frame)
            }
            Self::Crc32 => {
                let (frame, crc) = octets.split_last_chunk()?;
                (crc32fast::hash(frame) == u32::from_be_bytes(*crc)).then_some(frame)
            }
        }
    }

    const fn len(self) -> usize {
        match self {
            Self::Crc16 => 2,
            Self::Crc32 => 4,
        }
    }
}

/// Writes frames onto a line.
#[derive(Debug)]
pub struct LineEncoder {
    mtu: usize,
    check: Check,
    checked: Vec<u8>,
}

impl LineEncoder {
    /// For frames of at most `mtu` octets.
    #[must_use]
    pub const fn new(mtu: usize) -> Self {
        Self { mtu, check: Check::of(mtu), checked: Vec::new() }
    }

    /// Appends `frame`, as it goes onto the line, to `line`. The first after a silence has a zero before it: what the line made
    /// of the silence does not become a part of it.
    ///
    /// `false`: it is empty or longer than the MTU, and was not taken.
    pub fn encode(&mut self, frame: &[u8], after_silence: bool, line: &mut Vec<u8>) -> bool {
        if frame.is_empty() || frame.len() > self.mtu {
            return false;
        }
        self.checked.clear();
        self.checked.extend_from_slice(frame);
        self.check.append(&mut self.checked);
        if after_silence {
            line.push(0);
        }
        let start = line.len();
        line.resize(start + cobs::max_encoding_length(self.checked.len()), 0);
        let room = line.get_mut(start..).unwrap_or_default();
        let len = cobs::try_encode(&self.checked, room).unwrap_or(0);
        line.truncate(start + len);
        line.push(0);
        true
    }
}

/// Takes frames off a line.
#[derive(Debug)]
pub struct LineDecoder {
    check: Check,
    /// Octets that a frame can be stuffed into.
    limit: usize,
    stuffed: Vec<u8>,
    /// What is under way is too long: it is skipped up to its end.
    skipping: bool,
    dropped: u64,
}

impl LineDecoder {
    /// For frames of at most `mtu` octets. It keeps no more than one of them, and the octet in 254 that is added.
    #[must_use]
    pub const fn new(mtu: usize) -> Self {
        let check = Check::of(mtu);
        let limit = cobs::max_encoding_length(mtu + check.len());
        Self { check, limit, stuffed: Vec::new(), skipping: false, dropped: 0 }
    }

    /// What was on the line and was no frame, or not what had been sent: too long, stuffed wrongly, or with another CRC.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes octets off the line, and appends the frames that end in them to `frames`.
    pub fn decode(&mut self, line: &[u8], frames: &mut Frames) {
        let mut rest = line;
        while let Some(end) = rest.iter().position(|octet| *octet == 0) {
            let (part, behind) = rest.split_at(end);
            rest = behind.get(1..).unwrap_or_default();
            self.extend(part);
            self.end_frame(frames);
        }
        self.extend(rest);
    }

    /// Forgets what has begun: the line is another one.
    pub fn reset(&mut self) {
        self.stuffed.clear();
        self.skipping = false;
    }

    fn extend(&mut self, part: &[u8]) {
        if self.skipping || self.stuffed.len() + part.len() > self.limit {
            self.skipping = true;
            self.stuffed.clear();
        } else {
            self.stuffed.extend_from_slice(part);
        }
    }

    fn end_frame(&mut self, frames: &mut Frames) {
        let was_skipping = core::mem::take(&mut self.skipping);
        if !was_skipping && self.stuffed.is_empty() {
            return; // zeros between frames
        }
        let len = if was_skipping { 0 } else { cobs::decode_in_place(&mut self.stuffed).unwrap_or(0) };
        let frame = self.stuffed.get(..len).and_then(|octets| self.check.strip(octets));
        match frame.filter(|frame| !frame.is_empty()) {
            Some(frame) => frames.push(frame),
            None => self.dropped += 1,
        }
        self.stuffed.clear();
    }
}
