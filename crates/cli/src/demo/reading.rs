//! A reading of the monitor: sequence number, time, and a GATT Heart Rate Measurement.
//!
//! `sequence 4 | time in microseconds 8 | flags 1 | beats per minute 2 | RR interval 2`: the first two big-endian, the
//! measurement as in the Heart Rate Service of Bluetooth (little-endian; flags 0x11: 16-bit value, one RR interval in units
//! of 1/1024 s). 17 octets.

/// The recording: `time_s,bpm,rr_ms`, a beat a line.
pub(crate) const RECORDING: &str = include_str!("../../data/heart-rate.csv");
/// Its first line.
pub(crate) const HEADER: &str = "time_s,bpm,rr_ms";

const LEN: usize = 17;
const FLAGS: u8 = 0x11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) sequence: u32,
    time_us: u64,
    bpm: u16,
    rr: u16,
}

impl Reading {
    /// The beats of the recording.
    pub(crate) fn recorded() -> Vec<Self> {
        let lines = RECORDING.lines().skip(1).zip(0..);
        lines.filter_map(|(line, sequence)| Self::parse(sequence, line)).collect()
    }

    fn parse(sequence: u32, line: &str) -> Option<Self> {
        let mut fields = line.split(',');
        let (seconds, fraction) = fields.next()?.split_once('.')?;
        let scale = 10_u64.checked_pow(6_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?)?;
        let time_us = seconds.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()? * scale;
        let bpm = fields.next()?.parse().ok()?;
        let rr_ms: u32 = fields.next()?.parse().ok()?;
        // A unit is shorter than a millisecond: rounding to the nearest one loses nothing.
        let rr = u16::try_from((rr_ms * 1024 + 500) / 1000).ok()?;
        Some(Self { sequence, time_us, bpm, rr })
    }

    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut octets = [0; LEN];
        octets[..4].copy_from_slice(&self.sequence.to_be_bytes());
        octets[4..12].copy_from_slice(&self.time_us.to_be_bytes());
        octets[12] = FLAGS;
        octets[13..15].copy_from_slice(&self.bpm.to_le_bytes());
        octets[15..].copy_from_slice(&self.rr.to_le_bytes());
        octets
    }

    pub(crate) fn decode(octets: &[u8]) -> Option<Self> {
        let octets: &[u8; LEN] = octets.try_into().ok()?;
        let [a, b, c, d, time @ .., flags, e, f, g, h] = *octets;
        (flags == FLAGS).then_some(Self {
            sequence: u32::from_be_bytes([a, b, c, d]),
            time_us: u64::from_be_bytes(time),
            bpm: u16::from_le_bytes([e, f]),
            rr: u16::from_le_bytes([g, h]),
        })
    }

    /// As a line of the recording.
    pub(crate) fn line(&self) -> String {
        let millis = self.time_us / 1000;
        let rr_ms = (u32::from(self.rr) * 1000 + 512) / 1024;
        format!("{}.{:03},{},{rr_ms}", millis / 1000, millis % 1000, self.bpm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_beat_of_the_recording_survives_its_encoding() {
        let readings = Reading::recorded();
        assert_eq!(readings.len(), 501);
        let mut lines = vec![HEADER.to_string()];
        for reading in readings {
            let decoded = Reading::decode(&reading.encode()).unwrap();
            assert_eq!(decoded, reading);
            lines.push(decoded.line());
        }
        assert_eq!(lines.join("\n") + "\n", RECORDING);
    }
}
