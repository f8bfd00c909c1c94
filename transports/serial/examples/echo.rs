//! Sends every frame that comes over a serial line back: `echo serial:/dev/ttyUSB0?baud=115200`. Ends when the line does.

use std::future::poll_fn;

use sealway_link::{FrameLink as _, Frames, LinkErrorKind};
use sealway_serial::Serial;
use sealway_wire::Address;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).ok_or("usage: echo serial:DEVICE?baud=RATE")?;
    let Address::Serial(address) = Address::parse(&text)? else { return Err("that is no serial line".into()) };
    let mut link = Serial::default().open(&address)?;
    println!("ready");
    let mut frames = Frames::new();
    loop {
        match poll_fn(|cx| link.poll_recv(cx, &mut frames, 4096)).await {
            Ok(_) => {}
            Err(error) if error.kind == LinkErrorKind::Lost => break,
            Err(error) => return Err(error.into()),
        }
        for frame in (0..frames.len()).filter_map(|index| frames.get(index)) {
            poll_fn(|cx| link.poll_send(cx, frame)).await?;
        }
        poll_fn(|cx| link.poll_flush(cx)).await?;
        frames.clear();
    }
    println!("{} damaged", link.damaged());
    Ok(())
}
