//! What is recorded is what passed, and a link that is recorded is one as before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs::File, path::Path};

use pcap_file::pcapng::{
    Block, PcapNgReader,
    blocks::{enhanced_packet::EnhancedPacketOption, interface_description::InterfaceDescriptionOption},
};
use sealway_link::{FrameLink, Transport};
use sealway_recorder::Recorder;
use sealway_tcp::Tcp;
use sealway_testkit::links::{End, conform, numbered};
use sealway_udp::Udp;
use sealway_wire::Address;

async fn pair(transport: &impl Transport, address: &str) -> [Box<dyn FrameLink>; 2] {
    let mut listener = transport.listen(&Address::parse(address).unwrap()).await.unwrap();
    let address = listener.address();
    let address = Address::parse(&address).unwrap();
    let mut client = transport.connect(&address).await.unwrap();
    // Of datagrams, the first one makes the link.
    client.set_proved();
    let mut client = End::new(client);
    client.send(&numbered(0, 40)).await.unwrap();
    let mut server = End::new(listener.accept().await.unwrap());
    server.recv().await.unwrap();
    [client.into_link(), server.into_link()]
}

#[tokio::test]
async fn links_that_are_recorded_do_what_links_do() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::create(&folder.path().join("a.pcapng")).unwrap();
    conform(async || pair(&recorder.transport(Tcp::default()), "tcp://127.0.0.1:0").await).await;
    conform(async || pair(&recorder.transport(Udp::default()), "udp://127.0.0.1:0").await).await;
    assert_eq!(recorder.failure(), None);
}

/// Of which interface, in which direction, and its octets.
type Packet = (u32, u32, Vec<u8>);

/// Interfaces by name, and packets.
fn read(path: &Path) -> (Vec<String>, Vec<Packet>) {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let (mut names, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(block) => {
                let name = block.options.iter().find_map(|option| match option {
                    InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                    _ => None,
                });
                assert!(block.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                names.push(name.unwrap());
            }
            Block::EnhancedPacket(block) => {
                let flags = block.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Flags(flags) => Some(*flags),
                    _ => None,
                });
                assert_eq!(usize::try_from(block.original_len).unwrap(), block.data.len());
                packets.push((block.interface_id, flags.unwrap(), block.data.to_vec()));
            }
            other => panic!("{other:?}"),
        }
    }
    (names, packets)
}

#[tokio::test]
async fn a_recording_tells_what_passed_in_which_direction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let recorder = Recorder::create(&path).unwrap();
    let [left, right] = pair(&recorder.transport(Tcp::default()), "tcp://127.0.0.1:0").await.map(End::new);
    let (mut left, mut right) = (left, right);
    for number in 1..4 {
        let frame = numbered(number, 1000);
        left.send(&frame).await.unwrap();
        assert_eq!(right.recv().await, Ok(Some(frame)));
    }
    // While the recorder is there: what was sent and received is in the file.
    let (names, packets) = read(&path);
    assert!(names[0].starts_with("to tcp://127.0.0.1:") && names[1].starts_with("at tcp://127.0.0.1:"), "{names:?}");
    let sent: Vec<_> = packets.iter().filter(|(link, flags, _)| (*link, *flags) == (0, 2)).collect();
    let received: Vec<_> = packets.iter().filter(|(link, flags, _)| (*link, *flags) == (1, 1)).collect();
    let expected: Vec<_> = [numbered(0, 40)].into_iter().chain((1..4).map(|number| numbered(number, 1000))).collect();
    assert_eq!(sent.iter().map(|(.., octets)| octets.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(received.iter().map(|(.., octets)| octets.clone()).collect::<Vec<_>>(), expected);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(Recorder::create(&path).is_err(), "nothing is written over");
}

#[tokio::test]
async fn a_recording_that_is_full_ends_and_the_link_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let recorder = Recorder::create(&path).unwrap().with_limit(5000);
    let [mut left, mut right] = pair(&recorder.transport(Tcp::default()), "tcp://127.0.0.1:0").await.map(End::new);
    for number in 1..20 {
        let frame = numbered(number, 1000);
        left.send(&frame).await.unwrap();
        assert_eq!(right.recv().await, Ok(Some(frame)));
    }
    assert_eq!(recorder.failure().as_deref(), Some("the recording has reached its limit of 5000 octets"));
    let (_, packets) = read(&path);
    assert!((2..7).contains(&packets.len()), "{}", packets.len());
    assert!(std::fs::metadata(&path).unwrap().len() <= 5000);
}
