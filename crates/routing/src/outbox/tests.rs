//! The cursor against the walk that it saves.

use alloc::vec;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push { octets: usize, stored: bool, supersedes: bool, expires: bool },
    Written,
    Send(Lane),
    Committed { mark: u32, bitmap: u8, held: u8 },
    InCustody,
    NotKept,
    Redirect,
    Renew,
    IsBack,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let octets = prop_oneof![3 => 0..50_usize, 1 => Just(16_000_usize), 1 => Just(60_000_usize)];
    let push = (octets, any::<(bool, bool, bool)>()).prop_map(|(octets, (stored, supersedes, expires))| Step::Push {
        octets,
        stored,
        supersedes,
        expires,
    });
    prop_oneof![
        6 => push,
        2 => Just(Step::Written),
        16 => Just(Step::Send(Lane::Live)),
        1 => Just(Step::Send(Lane::Stored)),
        4 => (0..4_u32, any::<u8>(), any::<u8>())
            .prop_map(|(mark, bitmap, held)| Step::Committed { mark, bitmap, held: held & !(bitmap << 1) }),
        1 => Just(Step::InCustody),
        1 => Just(Step::NotKept),
        1 => Just(Step::Redirect),
        1 => Just(Step::Renew),
        1 => Just(Step::IsBack),
        3 => (1..3000_u64).prop_map(Step::Wait),
    ]
}

impl Outbox {
    fn step(&mut self, now: Timestamp, step: &Step) -> Option<(MessageId, u32, u32)> {
        let lowest = self.entries.values().next().map_or(self.next_number, |entry| entry.id.number);
        let id = self.entries.values().next().map(|entry| entry.message());
        match step {
            Step::Push { octets, stored, supersedes, expires } => {
                let options = SendOptions {
                    expires: expires.then(|| now.after(Duration::from_secs(1))),
                    supersedes: supersedes.then(|| vec![1]),
                    live_only: false,
                };
                let _ = self.push(vec![0; *octets], options, *stored);
            }
            Step::Written => {
                let waiting = self.entries.values().find(|entry| !entry.ready).map(Entry::message);
                waiting.map(|id| self.written(id)).unwrap_or_default();
            }
            Step::Send(lane) => {
                return self.poll_send(now, *lane).map(|sent| (sent.id, sent.lowest, sent.unwanted));
            }
            Step::Committed { mark, bitmap, held } => {
                let (mark, instance) = (lowest + mark, self.instance);
                self.committed(now, &Committed { instance, mark, bitmap: &[*bitmap], held: &[*held] });
            }
            Step::InCustody => id.map(|id| self.in_custody(now, id, Duration::from_secs(2))).map_or((), drop),
            Step::NotKept => id.map(|id| self.not_kept(now, id, Duration::from_secs(1))).unwrap_or_default(),
            Step::Redirect => self.redirect(),
            Step::Renew => self.renew(),
            Step::IsBack => self.peer_is_back(now),
            Step::Wait(_) => drop(self.expire(now)),
        }
        None
    }
}

proptest! {
    /// The cursor saves a walk, and changes nothing.
    #[test]
    fn where_sending_stands_is_where_a_walk_would_find_it(steps in prop::collection::vec(step(), 0..200)) {
        let new = || Outbox::new(IdentityId([1; 32]), Instance([2; 4]));
        let (mut outbox, mut walks) = (new(), new());
        let mut now = Timestamp::from_micros(1);
        for step in steps {
            if let Step::Wait(millis) = step {
                now = now.after(Duration::from_millis(millis));
            }
            walks.cursor = None;
            prop_assert_eq!(outbox.step(now, &step), walks.step(now, &step), "{:?}", step);
            // It may be looked at too early, never too late.
            walks.cursor = None;
            let (at, walked) = (outbox.poll_timeout(Lane::Live), walks.poll_timeout(Lane::Live));
            prop_assert!(walked.is_none_or(|walked| at.is_some_and(|at| at <= walked)), "{:?} {:?}", at, walked);
        }
    }
}
