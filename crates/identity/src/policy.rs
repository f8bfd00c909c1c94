//! Who may. Deny by default.

use alloc::collections::BTreeSet;

use sealway_wire::IdentityId;

use crate::Card;

/// Which identities are admitted. There is no policy that admits everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    admitted: BTreeSet<IdentityId>,
}

/// The answer of a policy, with the rule that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, because the identity is listed.
    Listed,
    /// Denied, because no rule allows it.
    Default,
}

impl Decision {
    /// Whether the answer is yes.
    #[must_use]
    pub const fn is_allow(self) -> bool {
        matches!(self, Self::Listed)
    }
}

impl Policy {
    /// Admits nobody.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { admitted: BTreeSet::new() }
    }

    /// Admits the identity of `card` alone.
    #[must_use]
    pub fn only(card: &Card) -> Self {
        Self::ids([card.id()])
    }

    /// Admits these identities alone.
    #[must_use]
    pub fn ids(ids: impl IntoIterator<Item = IdentityId>) -> Self {
        Self { admitted: ids.into_iter().collect() }
    }

    /// Admits one more identity.
    pub fn admit(&mut self, id: IdentityId) {
        self.admitted.insert(id);
    }

    /// Decides about one identity.
    #[must_use]
    pub fn decide(&self, id: &IdentityId) -> Decision {
        if self.admitted.contains(id) { Decision::Listed } else { Decision::Default }
    }

    /// The identities that are admitted.
    pub fn admitted(&self) -> impl Iterator<Item = &IdentityId> {
        self.admitted.iter()
    }
}
