//! The file.

use std::{
    borrow::Cow,
    fmt,
    fs::{File, OpenOptions},
    io::{BufWriter, Error, Result, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

/// Octets after which a file takes no more, unless another limit is set.
const LIMIT: u64 = 256 << 20;
/// More than what a block says around its frame.
const AROUND: u64 = 64;
/// Times are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Which way a frame goes, as the flags of its packet say it (pcapng, `epb_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Received = 1,
    Sent = 2,
}

/// A recording. Clones write into the same file, which is complete when the last one is dropped, and whole after each batch of frames.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<State>>);

struct State {
    /// None: it is full, or has failed.
    writer: Option<PcapNgWriter<BufWriter<File>>>,
    interfaces: u32,
    written: u64,
    limit: u64,
    /// Something is not handed to the system yet.
    is_dirty: bool,
    failure: Option<String>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins a file, which nobody but its owner can read. It ends at 256 MiB.
    ///
    /// # Errors
    /// If there is a file of that name, or none can be made.
    pub fn create(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let writer = PcapNgWriter::new(BufWriter::new(options.open(path)?)).map_err(io)?;
        let state =
            State { writer: Some(writer), interfaces: 0, written: 0, limit: LIMIT, is_dirty: true, failure: None };
        let recorder = Self(Arc::new(Mutex::new(state)));
        recorder.flush();
        Ok(recorder)
    }

    /// Ends the file at so many octets.
    #[must_use]
    pub fn with_limit(self, octets: u64) -> Self {
        self.state().limit = octets;
        self
    }

    /// Why nothing is recorded any more, if that is so: the file is full, or the disk.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new link.
    pub(crate) fn interface(&self, name: &str) -> u32 {
        let mut state = self.state();
        let number = state.interfaces;
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::USER0,
            // As long as they are.
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        let len = name.len();
        state.write(len, |writer| writer.write_pcapng_block(block));
        state.interfaces += u32::from(state.writer.is_some());
        number
    }

    pub(crate) fn frame(&self, interface: u32, direction: Direction, frame: &[u8]) {
        let block = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            original_len: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(frame),
            options: vec![EnhancedPacketOption::Flags(direction as u32)],
        };
        self.state().write(frame.len(), |writer| writer.write_pcapng_block(block));
    }

    /// Hands what was written to the system.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.is_dirty)
            && let Some(Err(error)) = state.writer.as_mut().map(|writer| writer.get_mut().flush())
        {
            state.fail(error.to_string());
        }
    }
}

impl State {
    fn write(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut PcapNgWriter<BufWriter<File>>) -> std::result::Result<usize, PcapError>,
    ) {
        let Some(writer) = &mut self.writer else { return };
        if self.written + u64::try_from(len).unwrap_or(u64::MAX).saturating_add(AROUND) > self.limit {
            return self.fail(format!("the recording has reached its limit of {} octets", self.limit));
        }
        match write(writer) {
            Ok(octets) => {
                self.written += u64::try_from(octets).unwrap_or(0);
                self.is_dirty = true;
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Nothing is recorded any more; links go on.
    fn fail(&mut self, why: String) {
        tracing::error!(%why, "nothing is recorded any more");
        if let Some(mut writer) = self.writer.take() {
            let _ = writer.get_mut().flush();
        }
        self.failure = Some(why);
    }
}

fn io(error: PcapError) -> Error {
    match error {
        PcapError::IoError(error) => error,
        error => Error::other(error.to_string()),
    }
}
