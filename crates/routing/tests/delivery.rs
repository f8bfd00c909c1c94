//! Outbox and inbox over a bad network, with crashes of either end: everything arrives once and in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use sealway_routing::{Batch, Inbox, Intake, MemoryStore, Outbox, SendOptions, Store, Table};
use sealway_wire::{
    IdentityId, Instance, Lane, MessageId, Timestamp,
    content::{Committed, Part},
};

const SENDER: IdentityId = IdentityId([1; 32]);
const RECIPIENT: IdentityId = IdentityId([2; 32]);

fn write(store: &mut MemoryStore, batch: Batch) {
    store.commit(&[batch]).unwrap();
}

fn load_outbox(store: &mut MemoryStore, instance: u8) -> Outbox {
    let mut outbox = Outbox::new(RECIPIENT, Instance([instance; 4]));
    store.load(Table::Outbox, &mut |key, value| assert!(outbox.load(key, value).is_some())).unwrap();
    outbox
}

fn load_inbox(store: &mut MemoryStore) -> Inbox {
    let mut inbox = Inbox::new(SENDER);
    store.load(Table::Inbox, &mut |key, value| assert!(inbox.load(key, value))).unwrap();
    inbox
}

/// Both ends with their disks, and what the application has seen.
struct World {
    now: Timestamp,
    outbox: Outbox,
    outbox_disk: MemoryStore,
    inbox: Inbox,
    inbox_disk: MemoryStore,
    runs: u8,
    pushed: Vec<Vec<u8>>,
    committed: Vec<Vec<u8>>,
    handed: BTreeSet<MessageId>,
    in_hand: Vec<(MessageId, Vec<u8>)>,
}

impl World {
    fn new() -> Self {
        let (mut outbox_disk, mut inbox_disk) = (MemoryStore::default(), MemoryStore::default());
        Self {
            now: Timestamp::from_micros(1),
            outbox: load_outbox(&mut outbox_disk, 0),
            outbox_disk,
            inbox: load_inbox(&mut inbox_disk),
            inbox_disk,
            runs: 0,
            pushed: Vec::new(),
            committed: Vec::new(),
            handed: BTreeSet::new(),
            in_hand: Vec::new(),
        }
    }

    fn push(&mut self) {
        let mut body = u32::try_from(self.pushed.len()).unwrap().to_be_bytes().to_vec();
        // Some go in parts.
        if self.pushed.len() % 6 == 4 {
            body.resize(16_000 * (1 + self.pushed.len() % 5) + 400, 7);
        }
        let (id, effects) = self.outbox.push(body.clone(), SendOptions::default(), true).unwrap();
        write(&mut self.outbox_disk, effects.batch);
        self.outbox.written(id);
        self.pushed.push(body);
    }

    /// Sends what is due; `loses` says of each message whether it is lost.
    fn send(&mut self, mut loses: impl FnMut() -> bool) {
        while let Some(sent) = self.outbox.poll_send(self.now, Lane::Live) {
            if !loses() {
                self.inbox.handle_message(sent.id, sent.lowest, sent.unwanted, sent.part, sent.body);
            }
        }
        while let Some(delivery) = self.inbox.poll_deliver() {
            write(&mut self.inbox_disk, delivery.before);
            let again = !self.handed.insert(delivery.id);
            assert!(!again || delivery.redelivered, "{}: a message that was handed over before says so", delivery.id);
            self.in_hand.push((delivery.id, delivery.body));
        }
    }

    fn commit(&mut self, loses_ack: bool) {
        let Some((id, body)) = (!self.in_hand.is_empty()).then(|| self.in_hand.remove(0)) else { return };
        let (batch, marks) = self.inbox.done(id).unwrap();
        write(&mut self.inbox_disk, batch);
        self.committed.push(body);
        self.inbox.written(id.instance, marks);
        if !loses_ack {
            let delivered = self.outbox.committed(self.now, &self.inbox.committed(id.instance).unwrap());
            write(&mut self.outbox_disk, delivered.batch);
        }
    }

    fn crash_sender(&mut self) {
        self.runs += 1;
        self.outbox = load_outbox(&mut self.outbox_disk, self.runs);
    }

    fn crash_recipient(&mut self) {
        self.inbox = load_inbox(&mut self.inbox_disk);
        self.in_hand.clear();
        self.outbox.renew();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push,
    Send(u8),
    Commit(bool),
    Wait(u16),
    CrashSender,
    CrashRecipient,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Push),
        6 => (0_u8..=255).prop_map(Step::Send),
        6 => any::<bool>().prop_map(Step::Commit),
        3 => (0_u16..5000).prop_map(Step::Wait),
        1 => Just(Step::CrashSender),
        1 => Just(Step::CrashRecipient),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn everything_arrives_once_and_in_order(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Push => world.push(),
                Step::Send(pattern) => {
                    let mut pattern = pattern;
                    world.send(|| { pattern = pattern.rotate_left(1); pattern & 1 == 1 });
                }
                Step::Commit(loses_ack) => world.commit(loses_ack),
                Step::Wait(millis) => world.now = world.now.after(Duration::from_millis(millis.into())),
                Step::CrashSender => world.crash_sender(),
                Step::CrashRecipient => world.crash_recipient(),
            }
        }
        // The network heals.
        for _ in 0..2000 {
            world.now = world.now.after(Duration::from_secs(1));
            world.send(|| false);
            world.commit(false);
            // A repeated message that is committed already is acknowledged again.
            for run in 0..=world.runs {
                if let Some(committed) = world.inbox.committed(Instance([run; 4])) {
                    let delivered = world.outbox.committed(world.now, &committed);
                    write(&mut world.outbox_disk, delivered.batch);
                }
            }
            if world.outbox.is_empty() {
                break;
            }
        }
        prop_assert!(world.outbox.is_empty());
        prop_assert_eq!(&world.committed, &world.pushed);
        prop_assert_eq!(world.outbox.octets(), 0);
    }

    /// The inbox against a set: whatever numbers come, and in whatever order they are done, it tells exactly what is so.
    #[test]
    fn marks_equal_a_set(numbers in proptest::collection::vec(0_u32..1500, 1..150)) {
        let mut inbox = Inbox::new(SENDER);
        let instance = Instance([9; 4]);
        let mut done = BTreeSet::new();
        for number in numbers {
            let id = MessageId { instance, number };
            let mark = (0..).find(|number| !done.contains(number)).unwrap();
            let verdict = inbox.handle_message(id, 0, 0, None, b"");
            prop_assert_eq!(verdict == Intake::Committed, done.contains(&number));
            if number > mark + 1024 {
                prop_assert_eq!(verdict, Intake::Later);
            } else {
                let (_, marks) = inbox.done(id).unwrap();
                inbox.written(instance, marks);
                done.insert(number);
            }
            let committed = inbox.committed(instance).unwrap();
            let told: Vec<u32> = (0..1600).filter(|number| committed.contains(*number)).collect();
            prop_assert!(told.iter().eq(&done));
        }
    }

    #[test]
    fn any_stored_rows_load_or_not_and_never_panic(key in proptest::collection::vec(1_u8..2, 30..44), value: Vec<u8>) {
        Inbox::new(SENDER).load(&key, &value);
        Outbox::new(SENDER, Instance([0; 4])).load(&key, &value);
    }
}

#[test]
fn what_expires_leaves_no_gap() {
    let mut outbox = Outbox::new(RECIPIENT, Instance([0; 4]));
    let mut inbox = Inbox::new(SENDER);
    let now = Timestamp::from_micros(10);
    for (body, expires) in [(b"a", None), (b"b", Some(Timestamp::from_micros(20))), (b"c", None)] {
        let mut options = SendOptions::default();
        options.expires = expires;
        outbox.push(body.to_vec(), options, false).unwrap();
    }
    let sent = outbox.poll_send(now, Lane::Live).unwrap();
    inbox.handle_message(sent.id, sent.lowest, sent.unwanted, sent.part, sent.body);
    let id = inbox.poll_deliver().unwrap().id;
    let (_, marks) = inbox.done(id).unwrap();
    inbox.written(id.instance, marks);
    outbox.committed(now, &inbox.committed(id.instance).unwrap());
    assert_eq!(outbox.expire(Timestamp::from_micros(20)).ids.len(), 1);
    let sent = outbox.poll_send(Timestamp::from_micros(21), Lane::Live).unwrap();
    assert_eq!((sent.body, sent.lowest), (b"c".as_slice(), 2));
    inbox.handle_message(sent.id, sent.lowest, sent.unwanted, sent.part, sent.body);
    assert_eq!(inbox.poll_deliver().unwrap().body, b"c");
}

#[test]
fn a_newer_message_of_the_same_key_takes_the_place_of_one_that_was_not_sent() {
    let mut outbox = Outbox::new(RECIPIENT, Instance([0; 4]));
    let mut options = SendOptions::default();
    options.supersedes = Some(b"level".to_vec());
    outbox.push(b"1".to_vec(), options.clone(), false).unwrap();
    let (_, superseded) = outbox.push(b"2".to_vec(), options.clone(), false).unwrap();
    assert_eq!(superseded.ids.len(), 1);
    assert_eq!(outbox.poll_send(Timestamp::from_micros(1), Lane::Live).unwrap().body, b"2");
    let (_, superseded) = outbox.push(b"3".to_vec(), options, false).unwrap();
    assert!(superseded.ids.is_empty(), "2 is under way");
    assert_eq!(outbox.len(), 2);
}

#[test]
fn an_inbox_is_bounded() {
    let mut inbox = Inbox::new(SENDER);
    let id = |number| MessageId { instance: Instance([0; 4]), number };
    let accepted =
        (1..1000).filter(|number| inbox.handle_message(id(*number), 0, 0, None, &[0; 16_000]) == Intake::Accepted);
    assert!(accepted.count() < 135, "two mebibytes of messages of 16,000 octets");
    // The one that all wait for is taken all the same.
    assert_eq!(inbox.handle_message(id(0), 0, 0, None, &[0; 16_000]), Intake::Accepted);
    assert_eq!(inbox.poll_deliver().unwrap().id, id(0));
}

/// What waits at the recipient for its application is told to the sender, who does not repeat it; what is missing it does.
#[test]
fn only_what_is_missing_is_repeated() {
    let mut world = World::new();
    for _ in 0..3 {
        world.push();
    }
    world.outbox.push(vec![1; 100_000], SendOptions::default(), false).unwrap();
    let mut count = 0;
    // The second part of the long message is lost, and nothing is done with.
    world.send(|| {
        count += 1;
        count == 5
    });
    assert_eq!((count, world.in_hand.len()), (10, 3));
    let held = world.inbox.committed(Instance([0; 4])).unwrap();
    assert!((0..10).all(|number| held.holds(number) == (number != 4)), "{held:?}");
    let delivered = world.outbox.committed(world.now, &held);
    assert!(delivered.ids.is_empty());
    world.now = world.now.after(Duration::from_secs(25));
    let mut repeated = Vec::new();
    while let Some(sent) = world.outbox.poll_send(world.now, Lane::Live) {
        repeated.push(sent.id.number);
        world.inbox.handle_message(sent.id, sent.lowest, sent.unwanted, sent.part, sent.body);
    }
    assert_eq!(repeated, [4]);
    let long = world.inbox.poll_deliver().unwrap();
    assert_eq!((long.id.number, long.body), (3, vec![1; 100_000]));
    // A new session repeats everything: the peer may have restarted.
    world.outbox.renew();
    assert_eq!(std::iter::from_fn(|| world.outbox.poll_send(world.now, Lane::Live).map(drop)).count(), 10);
}

/// Half of a message in parts is never superseded, and one that expires takes all of its parts with it.
/// RFC 9002 section 6.1.1: three places are reordering, more are loss.
#[test]
fn what_was_overtaken_is_sent_again_at_once() {
    let mut outbox = Outbox::new(RECIPIENT, Instance([0; 4]));
    let now = Timestamp::from_micros(1);
    for number in 0..6_u8 {
        outbox.push(vec![number], SendOptions::default(), false).unwrap();
        assert_eq!(outbox.poll_send(now, Lane::Live).unwrap().body, [number]);
    }
    let soon = now.after(Duration::from_millis(5));
    let mut tell = |held: u8| {
        let committed = Committed { instance: Instance([0; 4]), mark: 0, bitmap: &[], held: &[held] };
        assert!(outbox.committed(soon, &committed).ids.is_empty());
        std::iter::from_fn(|| outbox.poll_send(soon, Lane::Live).map(|message| message.body[0])).collect::<Vec<_>>()
    };
    assert_eq!(tell(0b00_0100), [] as [u8; 0], "one that has overtaken two");
    assert_eq!(tell(0b00_1100), [0], "and one that has overtaken three");
    assert_eq!(tell(0b01_1100), [1]);
    assert_eq!(tell(0b11_1100), [] as [u8; 0], "they have just been sent again");
}

/// A short message before a long one that is beyond the window: what was held of the long one makes room once it is the first.
#[test]
fn a_long_message_goes_on_when_it_becomes_the_first() {
    let mut outbox = Outbox::new(RECIPIENT, Instance([0; 4]));
    let now = Timestamp::from_micros(1);
    outbox.push(vec![0; 10], SendOptions::default(), false).unwrap();
    outbox.push(vec![1; 600_000], SendOptions::default(), false).unwrap();
    let send = |outbox: &mut Outbox| std::iter::from_fn(|| outbox.poll_send(now, Lane::Live).map(drop)).count();
    let sent = send(&mut outbox);
    assert!((15..20).contains(&sent), "a window: {sent}");
    let instance = Instance([0; 4]);
    let held: Vec<u8> = vec![0xff, 0xff, 0xff];
    let told = |mark, held| Committed { instance, mark, bitmap: &[], held };
    assert!(outbox.committed(now, &told(0, &held)).ids.is_empty());
    assert_eq!(send(&mut outbox), 0, "it is not the first");
    let rest: Vec<u8> = vec![0xff, 0xff, 0x07];
    assert_eq!(outbox.committed(now, &told(1, &rest)).ids.len(), 1);
    assert!(send(&mut outbox) >= 15, "another window");
}

/// What the recipient had and has no more comes again at once: its application has begun anew.
#[test]
fn what_was_held_and_is_no_more_is_sent_again() {
    let mut world = World::new();
    for _ in 0..3 {
        world.push();
    }
    world.send(|| false);
    let told = world.inbox.committed(Instance([0; 4])).unwrap();
    assert!(world.outbox.committed(world.now, &told).ids.is_empty());
    assert!(world.outbox.poll_send(world.now, Lane::Live).is_none(), "they wait for the application");
    assert_eq!(world.inbox.rewind(), [Instance([0; 4])]);
    let told = world.inbox.committed(Instance([0; 4])).unwrap();
    world.outbox.recall(world.now, &told, true);
    assert!(world.outbox.committed(world.now, &told).ids.is_empty());
    let again = std::iter::from_fn(|| world.outbox.poll_send(world.now, Lane::Live).map(|sent| sent.id.number));
    assert_eq!(again.collect::<Vec<_>>(), [0, 1, 2]);
}

/// One message that expires has its successor sent again, and nothing that is under way taken for lost.
#[test]
fn an_expiry_is_no_loss() {
    let mut outbox = Outbox::new(RECIPIENT, Instance([0; 4]));
    let now = Timestamp::from_micros(1);
    let soon = now.after(Duration::from_millis(10));
    for number in 0..10 {
        let expires = (number == 0).then_some(soon);
        let mut options = SendOptions::default();
        options.expires = expires;
        outbox.push(vec![0; 10], options, false).unwrap();
        assert!(outbox.poll_send(now, Lane::Live).is_some());
    }
    assert_eq!(outbox.expire(soon).ids.len(), 1);
    assert_eq!(outbox.poll_send(soon, Lane::Live).unwrap().id.number, 1);
    // The first copies of 1 to 3 have arrived.
    let held = Committed { instance: Instance([0; 4]), mark: 0, bitmap: &[], held: &[0b1110] };
    outbox.committed(soon, &held);
    assert!(outbox.poll_send(soon, Lane::Live).is_none());
}

/// The last number of all is nobody's: there is none after it.
#[test]
fn a_number_beyond_all_is_not_handed_over() {
    let mut inbox = Inbox::new(SENDER);
    let last = MessageId { instance: Instance([0; 4]), number: u32::MAX };
    assert_eq!(inbox.handle_message(last, u32::MAX, 0, None, b"?"), Intake::Later);
    assert_eq!(inbox.poll_deliver(), None);
}

#[test]
fn parts_stay_together() {
    let mut world = World::new();
    let key = || {
        let mut options = SendOptions::default();
        options.supersedes = Some(b"latest".to_vec());
        options
    };
    let (long, _) = world.outbox.push(vec![1; 50_000], key(), false).unwrap();
    assert!(world.outbox.poll_send(world.now, Lane::Live).is_some(), "one of its parts has left");
    let (_, effects) = world.outbox.push(vec![2; 10], key(), false).unwrap();
    assert!(effects.ids.is_empty());
    let (_, effects) = world.outbox.push(vec![3; 50_000], key(), false).unwrap();
    assert_eq!(effects.ids.len(), 1, "the short one, which has not left");
    let (_, effects) = world.outbox.push(vec![4; 10], key(), false).unwrap();
    assert_eq!(effects.ids.len(), 4, "all parts of the second long one");
    world.outbox.renew();
    world.send(|| false);
    assert_eq!(
        world.in_hand.iter().map(|(id, body)| (*id, body.len())).collect::<Vec<_>>(),
        [(long, 50_000), (MessageId { number: long.number + 9, ..long }, 10)]
    );
    let mut expiring = SendOptions::default();
    expiring.expires = Some(world.now.after(Duration::from_secs(5)));
    world.outbox.push(vec![5; 50_000], expiring, false).unwrap();
    world.outbox.poll_send(world.now, Lane::Live).unwrap();
    assert_eq!(world.outbox.expire(world.now.after(Duration::from_secs(6))).ids.len(), 4);
}

/// An earlier run has ended in the middle of something: what waits for it takes no room from the next one.
#[test]
fn what_a_dead_run_has_left_makes_room() {
    let mut inbox = Inbox::new(SENDER);
    let of = |run, number| MessageId { instance: Instance([run; 4]), number };
    // Of each of seventy runs the first message is missing.
    for run in 0..70 {
        for number in 1..4 {
            inbox.handle_message(of(run, number), 0, 0, None, &[0; 16_000]);
        }
    }
    let part = |index| Some(Part { index, count: 60 });
    for number in 0..60 {
        let taken = inbox.handle_message(of(200, number), 0, 0, part(number), &[7; 16_000]);
        assert_eq!(taken, Intake::Accepted, "part {number}");
    }
    assert_eq!(inbox.poll_deliver().map(|delivery| delivery.body.len()), Some(960_000));
}

/// The application takes nothing: what has arrived and waits counts against what may be under way.
#[test]
fn a_sender_does_not_run_ahead_of_a_slow_application() {
    let mut world = World::new();
    for _ in 0..400 {
        world.outbox.push(vec![1; 2000], SendOptions::default(), false).unwrap();
    }
    let mut sent = 0;
    for _ in 0..20 {
        world.now = world.now.after(Duration::from_millis(100));
        while let Some(message) = world.outbox.poll_send(world.now, Lane::Live) {
            world.inbox.handle_message(message.id, message.lowest, message.unwanted, message.part, message.body);
            sent += 1;
        }
        let held = world.inbox.committed(Instance([0; 4])).unwrap();
        world.outbox.committed(world.now, &held);
    }
    assert!(sent <= 140, "{sent}: no more than a window");
}

#[test]
fn what_letters_have_brought_is_remembered_as_long_as_they_can_come_again() {
    // Specification: [M45].
    sealway_testkit::audit::begin();
    let peer = IdentityId([7; 32]);
    let mut inbox = Inbox::new(peer);
    inbox.set_prekeys(5, 9);
    let mut disk = MemoryStore::default();
    let of = |run: u32| MessageId { instance: Instance(run.to_be_bytes()), number: 0 };
    let commit = |inbox: &mut Inbox, disk: &mut MemoryStore, run: u32, prekey: Option<u64>| {
        let intake = match prekey {
            Some(prekey) => inbox.handle_letter(prekey, of(run), 0, 0, None, b"once"),
            None => inbox.handle_message(of(run), 0, 0, None, b"once"),
        };
        if intake == Intake::Accepted {
            let delivery = inbox.poll_deliver().unwrap();
            assert_eq!((delivery.id, delivery.early), (of(run), prekey.is_some()));
            let (batch, marks) = inbox.done(of(run)).unwrap();
            disk.commit(&[delivery.before, batch]).unwrap();
            inbox.written(of(run).instance, marks);
        }
        intake
    };
    assert_eq!(commit(&mut inbox, &mut disk, 0, Some(5)), Intake::Accepted);
    // However many runs of the peer come after it, and across a restart.
    for run in 1..1000 {
        assert_eq!(commit(&mut inbox, &mut disk, run, None), Intake::Accepted);
        if run % 100 == 0 {
            inbox = Inbox::new(peer);
            disk.load(Table::Inbox, &mut |key, value| assert!(inbox.load(key, value))).unwrap();
            inbox.set_prekeys(5, 9);
        }
    }
    assert_eq!(commit(&mut inbox, &mut disk, 0, Some(5)), Intake::Committed);
    // So is what has come under a session: it may have been sealed in a letter, too.
    assert_eq!(commit(&mut inbox, &mut disk, 1, Some(5)), Intake::Committed);
    // When their prekeys are forgotten they may be, too: the letters do not open any more.
    inbox.set_prekeys(6, 9);
    assert_eq!(commit(&mut inbox, &mut disk, 1, Some(9)), Intake::Committed);
    inbox.set_prekeys(10, 12);
    for run in 1000..2000 {
        assert_eq!(commit(&mut inbox, &mut disk, run, None), Intake::Accepted);
    }
    inbox.set_prekeys(13, 13);
    assert_eq!(commit(&mut inbox, &mut disk, 0, None), Intake::Accepted);
    let mut rows = 0;
    disk.load(Table::Inbox, &mut |_, _| rows += 1).unwrap();
    assert!(rows <= 70, "what is forgotten takes no room: {rows}");
}

#[test]
fn a_peer_that_begins_anew_each_few_minutes_is_heard_and_remembered() {
    let mut inbox = Inbox::new(IdentityId([7; 32]));
    inbox.set_prekeys(3, 3);
    let of = |run: u32, number| MessageId { instance: Instance(run.to_be_bytes()), number };
    let mut runs = 0..;
    // More than there can be in two weeks of ten minutes each; then its letters wait, and its sessions do not.
    for run in runs.by_ref() {
        if inbox.handle_letter(3, of(run, 0), 0, 0, None, b"") == Intake::Later {
            break;
        }
        inbox.poll_deliver().unwrap();
        let (_, marks) = inbox.done(of(run, 0)).unwrap();
        inbox.written(of(run, 0).instance, marks);
    }
    let run = runs.start;
    assert!(run > 8000, "{run}");
    for run in [0, 100, 5000] {
        assert_eq!(inbox.handle_letter(3, of(run, 0), 0, 0, None, b""), Intake::Committed);
    }
    assert_eq!(inbox.handle_message(of(9999, 0), 0, 0, None, b""), Intake::Accepted);
    // Under a new prekey it goes on when the old one has ended.
    inbox.set_prekeys(4, 4);
    assert_eq!(inbox.handle_letter(4, of(run, 0), 0, 0, None, b""), Intake::Accepted);
}

#[test]
fn what_comes_under_a_session_takes_the_place_of_a_letter() {
    let mut inbox = Inbox::new(IdentityId([7; 32]));
    let of = |number: u32| MessageId { instance: Instance([1; 4]), number };
    assert_eq!(inbox.handle_letter(3, of(0), 0, 0, None, b"forged"), Intake::Accepted);
    assert_eq!(inbox.handle_message(of(0), 0, 0, None, b"genuine"), Intake::Pending);
    assert_eq!(inbox.handle_letter(3, of(0), 0, 0, None, b"forged"), Intake::Pending);
    let delivery = inbox.poll_deliver().unwrap();
    assert_eq!((delivery.body.as_slice(), delivery.early), (b"genuine".as_slice(), false));
}

#[test]
fn what_was_handed_over_before_a_crash_says_so_however_many_runs_came_between() {
    let peer = IdentityId([7; 32]);
    let of = |run: u32| MessageId { instance: Instance(run.to_be_bytes()), number: 0 };
    let mut disk = MemoryStore::default();
    let mut inbox = Inbox::new(peer);
    inbox.handle_message(of(0), 0, 0, None, b"undone");
    disk.commit(&[inbox.poll_deliver().unwrap().before]).unwrap();
    let mut inbox = Inbox::new(peer);
    disk.load(Table::Inbox, &mut |key, value| assert!(inbox.load(key, value))).unwrap();
    inbox.set_prekeys(1, 1);
    for run in 1..200 {
        assert_eq!(inbox.handle_message(of(run), 0, 0, None, b""), Intake::Accepted);
        let delivery = inbox.poll_deliver().unwrap();
        assert!(!delivery.redelivered);
        let (batch, marks) = inbox.done(of(run)).unwrap();
        disk.commit(&[delivery.before, batch]).unwrap();
        inbox.written(of(run).instance, marks);
    }
    // In this run, and in the next one.
    for _ in 0..2 {
        assert_eq!(inbox.handle_message(of(0), 0, 0, None, b"undone"), Intake::Accepted);
        assert!(inbox.poll_deliver().unwrap().redelivered);
        inbox = Inbox::new(peer);
        disk.load(Table::Inbox, &mut |key, value| assert!(inbox.load(key, value))).unwrap();
        inbox.set_prekeys(1, 1);
    }
}
