//! The stored lane: what a relay keeps opens after restarts of either side, and of nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use sealway_channel::{
    BOX_TIME, ChannelId, Deposit, FrameError, MAX_INCARNATIONS, MAX_STORED, SEALING_TIME, SendError, StateError,
};
use sealway_testkit::network::Network;
use sealway_wire::{
    CounterWidth, Instance, Lane, RecordHeader,
    content::{CloseReason, Reliable},
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn opened(seed: u64) -> Network {
    let mut network = Network::pair(seed);
    network.open(0, 1);
    assert!(
        network.run_until(SECOND * 5, |network| network.channel(1, 0).is_some() && network.channel(0, 1).is_some())
    );
    network.run(SECOND * 2);
    network
}

fn header(frame: &[u8]) -> RecordHeader {
    RecordHeader::decode(frame).unwrap().0
}

#[test]
fn what_was_deposited_before_a_restart_opens_after_it() {
    for (restarts_sender, restarts_recipient) in [(false, true), (true, false), (true, true)] {
        let mut network = opened(1);
        let before = network.deposit(0, 1, 7, b"before");
        for (machine, restarts) in [(0, restarts_sender), (1, restarts_recipient)] {
            if restarts {
                network.restart(machine);
            }
        }
        let after = network.deposit(0, 1, 8, b"after");
        assert_eq!(header(&after).incarnation.is_some(), restarts_sender, "a restored lane has a chain of its own");
        assert_eq!(header(&after).counter.width(), CounterWidth::Four);
        let committed = network.deposit_committed(1, 0, 9);
        // A week later, in another order, and more than once.
        network.now = network.now.after(DAY * 7);
        for frame in [&after, &before, &after] {
            network.deliver(0, 1, frame.clone()).unwrap();
        }
        network.deliver(1, 0, committed).unwrap();
        assert_eq!(network.machines[1].received, [b"after".as_slice(), b"before", b"after"]);
        assert_eq!(network.machines[0].committed, [9]);
    }
}

#[test]
fn stored_messages_cost_28_octets_and_40_after_a_restart() {
    let mut network = opened(2);
    assert_eq!(network.deposit(0, 1, 0, b"1234").len(), 4 + 28);
    network.restart(0);
    // An incarnation of 8, and the instance of 4, which is not the one of START any more.
    assert_eq!(network.deposit(0, 1, 0, b"1234").len(), 4 + 40);
}

/// On a disk that cannot go back a restart costs no octet on a record, and no counter is used twice.
#[test]
fn where_counters_are_reserved_a_restart_goes_on_behind_them() {
    // Specification: [M59].
    let mut network = Network::pair(2);
    network.machines[0].reserves_counters = true;
    network.restart(0);
    network.open(0, 1);
    assert!(
        network.run_until(SECOND * 5, |network| network.channel(1, 0).is_some() && network.channel(0, 1).is_some())
    );
    network.run(SECOND * 2);
    let counter = |frame: &[u8]| u32::from_be_bytes(frame[5..9].try_into().unwrap());
    let mut sealed = vec![network.deposit(0, 1, 0, b"1234")];
    assert_eq!(counter(&sealed[0]), 0);
    for start in 1..=15 {
        // What was sealed last was not written down by itself: the block was.
        network.restart(0);
        network.run(SECOND);
        let frame = network.deposit(0, 1, start, b"1234");
        assert_eq!((header(&frame).incarnation, counter(&frame)), (None, start * 4096));
        assert_eq!(frame.len(), 4 + 32, "the instance alone is more: it is not the one of START");
        sealed.push(frame);
    }
    // No block is left after that: then an incarnation is drawn.
    network.restart(0);
    network.run(SECOND);
    let frame = network.deposit(0, 1, 99, b"1234");
    assert!(header(&frame).incarnation.is_some());
    sealed.push(frame);
    for frame in sealed.into_iter().rev() {
        network.deliver(0, 1, frame).unwrap();
    }
    assert_eq!(network.machines[1].received.len(), 17);
}

#[test]
fn a_block_of_counters_is_on_the_disk_before_one_of_them_is_used() {
    // Specification: [M59].
    let mut network = Network::pair(2);
    network.machines[0].reserves_counters = true;
    network.restart(0);
    network.open(0, 1);
    assert!(
        network.run_until(SECOND * 5, |network| network.channel(1, 0).is_some() && network.channel(0, 1).is_some())
    );
    network.run(SECOND * 2);
    // Another block is asked for before this one is used up, and until it is there none of it is used.
    for number in 0..4096 {
        network.deposit(0, 1, number, b"1234");
    }
    let mut out = [0; 100];
    let message =
        Deposit::Message(Reliable { instance: None, number: 1, lowest: 0, unwanted: 0, part: None, body: b"" });
    let endpoint = &mut network.machines[0].endpoint;
    assert_eq!(endpoint.seal_deposit(network.now, ChannelId(0), message, &mut out), Err(SendError::NotOpen));
    network.run(SECOND);
    for number in 4096..5000 {
        network.deposit(0, 1, number, b"1234");
    }
    network.restart(0);
    // Of this start nothing is written: nothing is sealed.
    let endpoint = &mut network.machines[0].endpoint;
    assert_eq!(endpoint.seal_deposit(network.now, ChannelId(0), message, &mut out), Err(SendError::NotOpen));
    network.run(SECOND);
    let frame = network.deposit(0, 1, 5000, b"1234");
    assert_eq!(frame[5..9], 8192_u32.to_be_bytes());
    network.deliver(0, 1, frame).unwrap();
    // Who does not declare it any more draws an incarnation.
    network.machines[0].reserves_counters = false;
    network.restart(0);
    network.run(SECOND);
    assert!(header(&network.deposit(0, 1, 5001, b"1234")).incarnation.is_some());
}

#[test]
fn a_block_that_could_not_be_written_is_asked_for_again() {
    let mut network = Network::pair(2);
    network.machines[0].reserves_counters = true;
    network.restart(0);
    network.open(0, 1);
    assert!(
        network.run_until(SECOND * 5, |network| network.channel(1, 0).is_some() && network.channel(0, 1).is_some())
    );
    network.run(SECOND * 2);
    network.restart(0);
    let endpoint = &mut network.machines[0].endpoint;
    let saved = endpoint.poll_saved().unwrap();
    endpoint.not_written(network.now, &saved.peer, saved.session);
    let mut out = [0; 100];
    let message =
        Deposit::Message(Reliable { instance: None, number: 1, lowest: 0, unwanted: 0, part: None, body: b"" });
    assert_eq!(endpoint.seal_deposit(network.now, ChannelId(0), message, &mut out), Err(SendError::NotOpen));
    network.run(SECOND);
    let frame = network.deposit(0, 1, 1, b"1234");
    assert_eq!(frame[5..9], 4096_u32.to_be_bytes());
    network.deliver(0, 1, frame).unwrap();
}

#[test]
fn two_copies_of_one_store_never_use_a_chain_twice() {
    // Specification: [M18].
    let mut network = opened(3);
    network.restart(0);
    let first = network.deposit(0, 1, 0, b"copy one");
    network.restart(0);
    let second = network.deposit(0, 1, 0, b"copy two");
    assert_ne!(header(&first).incarnation, header(&second).incarnation);
    for frame in [first, second] {
        network.deliver(0, 1, frame).unwrap();
    }
    assert_eq!(network.machines[1].received, [b"copy one", b"copy two"]);
}

#[test]
fn a_session_is_not_confirmed_before_its_state_is_on_disk() {
    // Specification: [M19].
    let mut network = Network::pair(4);
    network.machines[1].disk_works = false;
    network.open(0, 1);
    network.run(SECOND * 8);
    assert_eq!(network.channel(0, 1), None, "the responder's START waits for its disk");
    network.machines[1].disk_works = true;
    assert!(network.run_until(SECOND * 30, |network| network.channel(0, 1).is_some()));

    let mut network = Network::pair(5);
    network.machines[0].disk_works = false;
    network.open(0, 1);
    network.run(SECOND * 8);
    assert_eq!(network.channel(1, 0), None, "the initiator's START waits for its disk");
    assert_eq!(network.channel(0, 1), None, "and it is not told that the channel is open before");
    // A power cut: nothing relies on the session, so nothing is lost with it.
    network.restart(0);
    network.machines[0].disk_works = true;
    network.open(0, 1);
    assert!(network.run_until(SECOND * 30, |network| network.channel(0, 1).is_some()));
}

#[test]
fn a_session_whose_state_cannot_be_written_is_dropped_and_made_again() {
    let mut network = Network::pair(6);
    network.machines[0].disk_works = false;
    network.open(0, 1);
    network.run(SECOND * 2);
    let now = network.now;
    let endpoint = &mut network.machines[0].endpoint;
    let saved = endpoint.poll_saved().expect("a session to be written");
    endpoint.not_written(now, &saved.peer, saved.session);
    assert!(network.channel(0, 1).is_none());
    network.machines[0].disk_works = true;
    assert!(network.run_until(SECOND * 60, |network| network.channel(0, 1).is_some()));
}

#[test]
fn a_restored_session_brings_nothing_of_a_peer_that_policy_no_longer_admits() {
    let mut network = opened(7);
    let frame = network.deposit(0, 1, 0, b"kept");
    network.restart(1);
    network.machines[1].forget_policy();
    assert_eq!(network.deliver(0, 1, frame.clone()), Err(FrameError::NotAdmitted));
    network.open(1, 0);
    network.deliver(0, 1, frame).unwrap();
}

#[test]
fn forged_and_damaged_records_change_nothing() {
    let mut network = opened(8);
    network.restart(0);
    let genuine = network.deposit(0, 1, 0, b"kept");
    for bit in 0..genuine.len() * 8 {
        let mut forged = genuine.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(network.deliver(0, 1, forged).is_err(), "bit {bit}");
    }
    for len in 0..genuine.len() {
        assert!(network.deliver(0, 1, genuine[..len].to_vec()).is_err(), "{len} octets");
    }
    network.deliver(0, 1, genuine).unwrap();
}

#[test]
fn after_64_incarnations_a_new_session_is_wanted_and_nothing_is_refused() {
    let mut network = opened(9);
    let mut frames = Vec::new();
    for number in 0..=MAX_INCARNATIONS {
        network.restart(0);
        frames.push(network.deposit(0, 1, u32::try_from(number).unwrap(), b"again"));
        network.deliver(0, 1, frames[number].clone()).unwrap();
    }
    // The first one was forgotten, and is derived anew.
    network.deliver(0, 1, frames[0].clone()).unwrap();
    // The side that can call does, once it has opened as many.
    let before = network.log.iter().filter(|(from, _, frame)| *from == 1 && frame[0] == 0x11).count();
    network.open(1, 0);
    network.run(SECOND * 5);
    network.restart(0);
    let frame = network.deposit(0, 1, 65, b"anew");
    network.deliver(0, 1, frame).unwrap();
    let after = network.log.iter().filter(|(from, _, frame)| *from == 1 && frame[0] == 0x11).count();
    assert!(after > before);
}

#[test]
fn an_old_stored_lane_stays_until_all_of_it_has_come() {
    let mut network = opened(10);
    let first = network.deposit(0, 1, 0, b"first");
    let last = network.deposit(0, 1, 1, b"last");
    let states = |network: &Network| network.machines[1].disk.len();
    // The second of these takes the place of one of which nothing is out.
    for _ in 0..2 {
        network.open(0, 1);
        network.run(SECOND * 300);
        assert_eq!(states(&network), 2, "the session in use, and the one of which two records are out");
    }
    network.now = network.now.after(DAY * 10);
    network.deliver(0, 1, last.clone()).unwrap();
    network.deliver(0, 1, first.clone()).unwrap();
    network.run(SECOND * 200);
    assert_eq!(network.deliver(0, 1, first), Err(FrameError::UnknownConnection));
    assert_eq!(states(&network), 1, "its state is deleted");
}

#[test]
fn a_lane_of_which_something_is_lost_ends_with_the_box() {
    let mut network = opened(11);
    let frame = network.deposit(0, 1, 0, b"lost for ever");
    network.open(0, 1);
    network.run(SECOND * 300);
    network.run(BOX_TIME);
    assert_eq!(network.deliver(0, 1, frame), Err(FrameError::UnknownConnection));
}

#[test]
fn a_lane_seals_for_so_long_and_so_many_records() {
    let mut network = opened(12);
    let channel = network.channel(0, 1).unwrap();
    let mut out = [0; 256];
    let deposit =
        Deposit::Message(Reliable { instance: None, number: 0, lowest: 0, unwanted: 0, part: None, body: b"." });
    let now = network.now;
    let endpoint = &mut network.machines[0].endpoint;
    for _ in 0..MAX_STORED {
        endpoint.seal_deposit(now, channel, deposit, &mut out).unwrap();
    }
    assert_eq!(endpoint.seal_deposit(now, channel, deposit, &mut out), Err(SendError::LaneStopped));
    assert_eq!(endpoint.seal_deposit(now, ChannelId(77), deposit, &mut out), Err(SendError::UnknownChannel));

    let mut network = opened(13);
    network.restart(0);
    network.now = network.now.after(SEALING_TIME);
    let now = network.now;
    let endpoint = &mut network.machines[0].endpoint;
    assert_eq!(endpoint.seal_deposit(now, ChannelId(0), deposit, &mut out), Err(SendError::NotOpen));
    assert!(!endpoint.may_deposit(now, ChannelId(0)));
}

#[test]
fn nothing_is_deposited_under_a_session_that_the_peer_may_not_have() {
    // Specification: [M17].
    let mut network = Network::pair(14);
    // The responder has accepted message 3, and the initiator does not get as far as START.
    network.machines[0].disk_works = false;
    network.open(0, 1);
    network.run(SECOND * 2);
    assert_eq!(network.machines[1].disk.len(), 1);
    let now = network.now;
    assert!(!network.machines[1].endpoint.may_deposit(now, ChannelId(0)));
    network.restart(1);
    assert!(!network.machines[1].endpoint.may_deposit(now, ChannelId(0)));
}

#[test]
fn close_ends_the_live_lane_only() {
    let mut network = opened(15);
    let frame = network.deposit(0, 1, 0, b"kept");
    let channel = network.channel(0, 1).unwrap();
    network.machines[0].endpoint.close(channel, CloseReason::Finished);
    network.run(SECOND);
    assert_eq!(network.channel(1, 0), None);
    network.deliver(0, 1, frame).unwrap();
    assert_eq!(network.machines[1].received, [b"kept"]);
}

#[test]
fn state_at_rest_is_of_use_to_its_owner_alone() {
    let mut network = opened(16);
    let now = network.now;
    let state = network.machines[0].disk.values().next().unwrap().clone();
    for bit in 0..state.len() * 8 {
        let mut damaged = state.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(network.machines[0].endpoint.restore(now, &damaged).is_err(), "bit {bit}");
    }
    for len in 0..state.len() {
        assert!(network.machines[0].endpoint.restore(now, &state[..len]).is_err(), "{len} octets");
    }
    assert_eq!(network.machines[1].endpoint.restore(now, &state), Err(StateError::Rejected));
    let mut later = state.clone();
    later[0] = 2;
    assert_eq!(network.machines[0].endpoint.restore(now, &later), Err(StateError::Version(2)));
    // Nothing of the session is legible in it: every secret of one run differs from every other, so a search for the
    // connection ids, which every frame shows, stands for all.
    let (_, _, frame) = network.log.iter().find(|(from, _, frame)| *from == 1 && frame[0] & 0x80 != 0).unwrap();
    let cid: [u8; 4] = frame[1..5].try_into().unwrap();
    assert!(!state.windows(4).any(|window| window == cid));
    assert!(network.machines[0].endpoint.restore(now, &state).is_ok());
}

#[test]
fn the_instance_is_known_after_a_restart_of_the_recipient() {
    let mut network = opened(17);
    let frame = network.deposit(0, 1, 3, b"without its instance");
    let with = network.machines[0].endpoint.seal_deposit(
        network.now,
        ChannelId(0),
        Deposit::Message(Reliable {
            instance: Some(Instance([9; 4])),
            number: 3,
            lowest: 0,
            unwanted: 0,
            part: None,
            body: b"without its instance",
        }),
        &mut [0; 256],
    );
    assert_eq!(with.unwrap(), frame.len() + 4);
    network.restart(1);
    network.deliver(0, 1, frame).unwrap();
    assert_eq!(network.machines[1].received, [b"without its instance"]);
}

#[test]
fn no_live_lane_is_restored() {
    let mut network = opened(18);
    network.send_message(0, 1, Lane::Live, 0, b"live");
    let live = network.log.last().unwrap().2.clone();
    network.run(SECOND);
    network.restart(1);
    assert_eq!(network.deliver(0, 1, live), Err(FrameError::UnknownConnection));
}
