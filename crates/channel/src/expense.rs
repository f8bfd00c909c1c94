//! What strangers may cost a responder before it knows them. Protocol section 3.
//!
//! Who holds the card can begin handshakes without end, and each costs a Diffie-Hellman and an encapsulation. Three things
//! bound that: an address that can be forged has to answer (cookies), a message that was seen is worked on once, and each
//! source has a budget.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use sealway_vault::{CryptoProvider, EntropyError, Secret};
use sealway_wire::{
    Timestamp,
    danger::{self, Protection},
    handshake::{COOKIE_LEN, Message1},
};
use subtle::ConstantTimeEq;

use crate::endpoint::Source;

/// From so many half-open handshakes on, sources that can be forged need cookies.
pub(crate) const COOKIES_FROM: usize = 64;
/// How long cookies are made under one secret; they are taken as long again.
const COOKIE_TIME: Duration = Duration::from_secs(120);
/// Ephemeral keys that are remembered.
const RECENT: usize = 2048;
/// First messages that a source may have worked on at once, and how soon one more.
const BURST: u32 = 64;
const EACH: Duration = Duration::from_micros(31_250);
/// Sources whose budgets are remembered.
const SOURCES: usize = 1024;

/// All three.
pub(crate) struct Expense {
    pub(crate) cookies: Cookies,
    pub(crate) recent: Recent,
    pub(crate) budget: Budget,
}

impl Expense {
    pub(crate) const fn new() -> Self {
        Self {
            cookies: Cookies { secrets: None, since: Timestamp::from_micros(0) },
            recent: Recent { seen: BTreeSet::new(), order: VecDeque::new() },
            budget: Budget { spent: BTreeMap::new() },
        }
    }
}

/// Proofs that a source is where it says, without memory for any.
pub(crate) struct Cookies {
    /// The one in use and the one before.
    secrets: Option<[Secret<32>; 2]>,
    since: Timestamp,
}

impl Cookies {
    /// The cookie for `source` and e: HMAC(secret, source || e), cut to 16 octets.
    pub(crate) fn of<P: CryptoProvider>(
        &mut self,
        provider: &P,
        now: Timestamp,
        source: Source,
        ephemeral: &[u8; 32],
    ) -> Result<[u8; COOKIE_LEN], EntropyError> {
        let age = now.since(self.since);
        let secrets = match self.secrets.take() {
            Some(secrets) if age < COOKIE_TIME => secrets,
            before => {
                self.since = now;
                let newest = provider.random_secret()?;
                let previous = match before {
                    Some([previous, _]) if age < COOKIE_TIME * 2 => previous,
                    _ => provider.random_secret()?,
                };
                [newest, previous]
            }
        };
        let cookie = cookie(provider, &secrets[0], source, ephemeral);
        self.secrets = Some(secrets);
        Ok(cookie)
    }

    /// Whether we have given `shown` to this source for this message, at most four minutes ago.
    pub(crate) fn is_ours<P: CryptoProvider>(
        &self,
        provider: &P,
        shown: &[u8; COOKIE_LEN],
        source: Source,
        message: &Message1<'_>,
    ) -> bool {
        let fits = |secret| cookie(provider, secret, source, message.ephemeral()).ct_eq(shown).into();
        self.secrets.iter().flatten().any(fits)
    }
}

fn cookie<P: CryptoProvider>(
    provider: &P,
    secret: &Secret<32>,
    source: Source,
    ephemeral: &[u8; 32],
) -> [u8; COOKIE_LEN] {
    let mac = provider.hmac(secret.expose(), &[&source.number.to_be_bytes(), ephemeral]);
    let mut cookie = [0; COOKIE_LEN];
    cookie.copy_from_slice(&mac[..COOKIE_LEN]);
    cookie
}

/// The ephemeral keys of the first messages that were answered last.
pub(crate) struct Recent {
    seen: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Recent {
    pub(crate) fn contains(&self, ephemeral: &[u8; 32]) -> bool {
        self.seen.contains(ephemeral) && !danger::is_off(Protection::Recent)
    }

    pub(crate) fn insert(&mut self, ephemeral: [u8; 32]) {
        if self.seen.insert(ephemeral) {
            self.order.push_back(ephemeral);
        }
        if self.order.len() > RECENT {
            self.order.pop_front().map(|oldest| self.seen.remove(&oldest));
        }
    }
}

/// How much each source may have us compute.
pub(crate) struct Budget {
    /// Until when what a source has spent is paid off.
    spent: BTreeMap<u64, Timestamp>,
}

impl Budget {
    /// Whether `source` may have one more message worked on; it counts then.
    pub(crate) fn takes(&mut self, now: Timestamp, source: Source) -> bool {
        if self.spent.len() >= SOURCES && !self.spent.contains_key(&source.number) {
            self.spent.retain(|_, until| *until > now);
            // All of them are busy: the one that has spent least makes room.
            if self.spent.len() >= SOURCES {
                let least = self.spent.iter().min_by_key(|(_, until)| **until).map(|(number, _)| *number);
                least.map(|number| self.spent.remove(&number));
            }
        }
        let until = self.spent.entry(source.number).or_insert(now);
        let after = (*until).max(now).after(EACH);
        if after.since(now) > EACH * BURST && !danger::is_off(Protection::Budget) {
            return false;
        }
        *until = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use sealway_testkit::entropy::seeded_provider;

    use super::*;

    #[test]
    fn cookies_belong_to_a_source_and_a_message_and_end() {
        let provider = seeded_provider(1);
        let mut cookies = Expense::new().cookies;
        let at = |seconds: u64| Timestamp::from_micros(seconds * 1_000_000);
        let noise = |first: u8| [first; sealway_wire::handshake::NOISE_1_LEN];
        let (one, two) = (noise(1), noise(2));
        let message = |noise| Message1 { gate: &[0; 8], cookie: None, noise };
        let source = Source::claimed(7);
        let cookie = cookies.of(&provider, at(1000), source, message(&one).ephemeral()).unwrap();
        assert!(cookies.is_ours(&provider, &cookie, source, &message(&one)));
        assert!(!cookies.is_ours(&provider, &cookie, source, &message(&two)));
        assert!(!cookies.is_ours(&provider, &cookie, Source::claimed(8), &message(&one)));
        // Of the secret before it is still taken, of the one before that not.
        cookies.of(&provider, at(1130), source, message(&two).ephemeral()).unwrap();
        assert!(cookies.is_ours(&provider, &cookie, source, &message(&one)));
        cookies.of(&provider, at(1260), source, message(&two).ephemeral()).unwrap();
        assert!(!cookies.is_ours(&provider, &cookie, source, &message(&one)));
        // Nor after a long pause.
        let cookie = cookies.of(&provider, at(1300), source, message(&one).ephemeral()).unwrap();
        cookies.of(&provider, at(1600), source, message(&two).ephemeral()).unwrap();
        assert!(!cookies.is_ours(&provider, &cookie, source, &message(&one)));
    }

    #[test]
    fn a_budget_is_spent_and_grows_again() {
        let mut budget = Expense::new().budget;
        let now = Timestamp::from_micros(5_000_000);
        let taken =
            |budget: &mut Budget, now, number| (0..1000).filter(|_| budget.takes(now, Source::proven(number))).count();
        assert_eq!(taken(&mut budget, now, 1), 64);
        assert_eq!(taken(&mut budget, now, 2), 64, "another source has its own");
        assert_eq!(taken(&mut budget, now.after(Duration::from_millis(500)), 1), 16);
        // However many sources there are, memory is bounded, and each gets something.
        for number in 10..5000 {
            assert!(budget.takes(now, Source::proven(number)));
        }
        assert!(budget.spent.len() <= SOURCES);
    }
}
