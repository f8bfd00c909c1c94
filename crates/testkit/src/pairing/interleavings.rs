//! All orders of some few steps, one after the other.

use sealway_channel::PairingEvent;

use super::{DEVICE, Fate, Pair, SERVICE};

/// One step of an exhaustive search: what happens, and what becomes of the write that it causes.
pub const STEPS: [(Step, Fate); 8] = [
    (Step::Repeat, Fate::Written),
    (Step::Repeat, Fate::Lost),
    (Step::ToService, Fate::Written),
    (Step::ToService, Fate::WrittenUnheard),
    (Step::ToService, Fate::Lost),
    (Step::ToDevice, Fate::Written),
    (Step::ToDevice, Fate::WrittenUnheard),
    (Step::ToDevice, Fate::Lost),
];

/// All that matters for the ratchet, once the device has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What is unanswered is sent once more.
    Repeat,
    /// The oldest frame to the service arrives.
    ToService,
    /// The oldest frame to the device arrives.
    ToDevice,
}

/// After a first session the device calls once more; then the steps of which `number` names one after the other, then the
/// network heals.
///
/// # Panics
/// If a nonce is used twice, something is committed twice, or nothing gets through in the end.
pub fn interleave(mut number: usize, steps: u32) {
    let mut pair = Pair::new(7);
    pair.call(&[]).unwrap();
    pair.deliver_all();
    pair.call(&[]).unwrap();
    for _ in 0..steps {
        let (step, fate) = STEPS[number % STEPS.len()];
        number /= STEPS.len();
        let machine = if step == Step::ToService { SERVICE } else { DEVICE };
        pair.machines[machine].next_write = fate;
        match step {
            Step::Repeat => pair.repeat(),
            Step::ToService => first_to(&mut pair, SERVICE),
            Step::ToDevice => first_to(&mut pair, DEVICE),
        }
        pair.machines[machine].next_write = Fate::Written;
    }
    pair.heals();
    assert!(!pair.machines[SERVICE].events.contains(&PairingEvent::CloneSuspected));
}

fn first_to(pair: &mut Pair, to: usize) {
    if let Some(index) = pair.on_the_way.iter().position(|(recipient, _)| *recipient == to) {
        let (to, frame) = pair.on_the_way.remove(index);
        pair.deliver(to, frame);
    }
}
