//! Serial lines without a device.

use std::{os::unix::fs::symlink, path::Path};

use tokio::task::JoinHandle;
use tokio_serial::{SerialPort, SerialStream};

/// A null modem: two pseudo terminals, each end of which has a name, and what carries octets between them until it is
/// unplugged.
pub(crate) struct Cable(JoinHandle<()>);

impl Cable {
    pub(crate) fn plug(names: [&Path; 2]) -> Self {
        let [one, other] = names.map(|name| {
            let (master, slave) = SerialStream::pair().unwrap();
            let _ = std::fs::remove_file(name);
            symlink(slave.name().unwrap(), name).unwrap();
            // Kept open, so that the master does not see an end before somebody has opened it.
            (master, slave)
        });
        Self(tokio::spawn(async move {
            let ((mut one, _kept), (mut other, _kept_too)) = (one, other);
            let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
        }))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The end of a cable, as an address.
pub(crate) fn address(name: &Path) -> String {
    format!("serial:{}?baud=921600", name.display())
}
