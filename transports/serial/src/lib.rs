//! Sealway frames over serial lines.
//!
//! * Addresses: `serial:/dev/ttyUSB0?baud=115200`, with `&flow=hardware`, `&mtu=2048` and `&repeat=on` behind it where they are
//!   wanted. They name a line of the own machine: on a card they would mean nothing.
//! * 8 data bits, no parity, one stop bit. Software flow control would eat octets of the frames, and is off. DTR and RTS are raised
//!   where there are such lines.
//! * Framing: `sealway_link::line`, COBS with a CRC: a receiver is in step again at the next frame after whatever the line did.
//!   Both ends use the same rate and the same `mtu`.
//! * `mtu` is the longest frame that goes in one piece, by default what the line carries in a quarter of a second and 1300 octets at
//!   least. Longer ones, up to 20480 octets, go in fragments.
//! * What the line loses the channel above sends again, or the line itself, with `repeat=on` at both ends: `sealway_repeat`.
//! * A device that is unplugged ends the link. A listener waits until it is there again; a node that connects tries again.
#![forbid(unsafe_code)]

mod link;

use std::{io, num::NonZeroU32, sync::Arc, time::Duration};

use sealway_link::{BoxFuture, FrameLink, LinkError, LinkErrorKind, Listener, Transport};
use sealway_repeat::Repeated;
use sealway_wire::{Address, Flow, SerialAddress};
use tokio::sync::Semaphore;
use tokio_serial::{ErrorKind, FlowControl, SerialPort, SerialPortBuilderExt, SerialStream};

use link::Use;
pub use link::{MTU, SerialLink};

/// Bits on the line for an octet: one to start, eight, and one to stop.
const BITS: u32 = 10;
/// The part of a second that a piece takes.
const PIECES: u32 = 4;
/// What goes in one piece at any rate: the first message of a handshake does.
const LEAST_UNIT: usize = 1300;
/// How often it is looked whether a device is there again.
const LOOK: Duration = Duration::from_millis(500);

/// The medium.
#[derive(Clone, Debug)]
pub struct Serial {
    idle_timeout: Option<Duration>,
}

impl Default for Serial {
    fn default() -> Self {
        Self { idle_timeout: Some(Duration::from_secs(90)) }
    }
}

impl Serial {
    /// Gives a line up on which nothing has arrived for `limit`; none: never, for devices that sleep.
    #[must_use]
    pub const fn with_idle_timeout(self, limit: Option<Duration>) -> Self {
        Self { idle_timeout: limit }
    }

    /// Opens a line, for what is given a link instead of an address.
    ///
    /// # Errors
    /// The device is not there, in use, or not to be used by this user. Must be called on a tokio runtime.
    pub fn open(&self, address: &SerialAddress<'_>) -> Result<SerialLink, LinkError> {
        Ok(SerialLink::new(open(address)?, self.use_of(address)))
    }

    /// A line that is open already, at `baud` bits a second; `mtu` as in an address.
    #[must_use]
    pub fn with_stream(&self, stream: SerialStream, baud: NonZeroU32, mtu: Option<std::num::NonZeroU16>) -> SerialLink {
        let device = stream.name().unwrap_or_else(|| "a serial line".into());
        let address = SerialAddress { device: &device, baud, flow: Flow::None, mtu, repeats: false };
        SerialLink::new(stream, self.use_of(&address))
    }

    fn use_of(&self, address: &SerialAddress<'_>) -> Use {
        let rate = NonZeroU32::new(address.baud.get() / BITS).unwrap_or(NonZeroU32::MIN);
        let suggested = usize::try_from(rate.get() / PIECES).unwrap_or(MTU).clamp(LEAST_UNIT, MTU);
        // Below that, not even a fragment fits.
        let unit = address.mtu.map_or(suggested, |mtu| usize::from(mtu.get()).clamp(64, MTU));
        Use { device: address.device.into(), unit, rate, idle_timeout: self.idle_timeout, turn: None }
    }
}

fn open(address: &SerialAddress<'_>) -> Result<SerialStream, LinkError> {
    let flow = match address.flow {
        Flow::None => FlowControl::None,
        Flow::Hardware => FlowControl::Hardware,
    };
    let builder = tokio_serial::new(address.device, address.baud.get()).flow_control(flow);
    let mut stream = builder.open_native_async().map_err(|error| {
        let kind = match error.kind() {
            ErrorKind::NoDevice | ErrorKind::Io(io::ErrorKind::NotFound) => LinkErrorKind::Unreachable,
            ErrorKind::Io(io::ErrorKind::PermissionDenied) => LinkErrorKind::Denied,
            ErrorKind::Io(io::ErrorKind::ResourceBusy) => LinkErrorKind::AddressUnavailable,
            _ => LinkErrorKind::Other,
        };
        LinkError::new(kind, address).caused_by(error)
    })?;
    // A pseudo terminal has no such lines.
    let _ = stream.write_data_terminal_ready(true);
    if flow == FlowControl::None {
        let _ = stream.write_request_to_send(true);
    }
    Ok(stream)
}

/// The link, which sends again what is lost, if it `repeats`.
fn as_told(link: SerialLink, repeats: bool) -> Result<Box<dyn FrameLink>, LinkError> {
    let link = Box::new(link);
    if repeats { Ok(Box::new(Repeated::new(link)?)) } else { Ok(link) }
}

/// The address, if it is one of this medium.
const fn place<'a>(address: &'a Address<'a>) -> Option<&'a SerialAddress<'a>> {
    match address {
        Address::Serial(address) => Some(address),
        Address::Net(_) => None,
    }
}

impl Transport for Serial {
    fn supports(&self, address: &Address<'_>) -> bool {
        place(address).is_some()
    }

    fn connect<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let address = place(address).ok_or_else(|| LinkError::new(LinkErrorKind::Unsupported, address))?;
            as_told(self.open(address)?, address.repeats)
        })
    }

    fn listen<'a>(&'a self, address: &'a Address<'a>) -> BoxFuture<'a, Result<Box<dyn Listener>, LinkError>> {
        Box::pin(async move {
            let place = place(address).ok_or_else(|| LinkError::new(LinkErrorKind::Unsupported, address))?;
            let SerialAddress { device, baud, flow, mtu, repeats } = *place;
            let stream = Some(open(place)?);
            let line = Line { device: device.into(), baud, flow, mtu, repeats };
            let turn = Arc::new(Semaphore::new(1));
            Ok(Box::new(SerialListener { transport: self.clone(), line, stream, turn, is_away: false }) as _)
        })
    }
}

/// A serial address that is owned.
struct Line {
    device: String,
    baud: NonZeroU32,
    flow: Flow,
    mtu: Option<std::num::NonZeroU16>,
    repeats: bool,
}

impl Line {
    fn address(&self) -> SerialAddress<'_> {
        let Self { device, baud, flow, mtu, repeats } = self;
        SerialAddress { device, baud: *baud, flow: *flow, mtu: *mtu, repeats: *repeats }
    }
}

/// Waits for somebody at the other end of a line to say something, again and again.
pub struct SerialListener {
    transport: Serial,
    line: Line,
    /// The line, while nobody has it.
    stream: Option<SerialStream>,
    /// There is one link at a time.
    turn: Arc<Semaphore>,
    /// Nobody has to be told once more that the device is not there.
    is_away: bool,
}

impl Listener for SerialListener {
    fn address(&self) -> String {
        self.line.address().to_string()
    }

    fn accept(&mut self) -> BoxFuture<'_, Result<Box<dyn FrameLink>, LinkError>> {
        Box::pin(async move {
            let ended = || LinkError::new(LinkErrorKind::Lost, self.line.address());
            let turn = self.turn.clone().acquire_owned().await.map_err(|_| ended())?;
            loop {
                let stream = match self.stream.take() {
                    Some(stream) => stream,
                    None => match open(&self.line.address()) {
                        Ok(stream) => stream,
                        Err(error) if !std::mem::replace(&mut self.is_away, true) => return Err(error),
                        Err(_) => {
                            tokio::time::sleep(LOOK).await;
                            continue;
                        }
                    },
                };
                // Kept where giving up to wait does not lose it.
                let stream = self.stream.insert(stream);
                if stream.readable().await.is_ok()
                    && let Some(stream) = self.stream.take()
                {
                    self.is_away = false;
                    let with = Use { turn: Some(turn), ..self.transport.use_of(&self.line.address()) };
                    return as_told(SerialLink::new(stream, with), self.line.repeats);
                }
                self.stream = None;
            }
        })
    }
}
