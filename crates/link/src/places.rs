//! Places for those who are not known yet: so many in all, and of each source no more than its share.

use alloc::collections::BTreeMap;

/// Places that are taken and given back.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    limit_of_source: usize,
    taken: usize,
    by_source: BTreeMap<u64, usize>,
}

impl Places {
    /// So many places, and so many of them at most for one [source](crate::FrameLink::source).
    #[must_use]
    pub const fn new(limit: usize, limit_of_source: usize) -> Self {
        Self { limit, limit_of_source, taken: 0, by_source: BTreeMap::new() }
    }

    /// Takes a place. Without a source only the places in all count. `false`: there is none.
    #[must_use]
    pub fn take(&mut self, source: Option<u64>) -> bool {
        let of_source = |source| self.by_source.get(&source).copied().unwrap_or(0);
        if self.taken >= self.limit || source.is_some_and(|source| of_source(source) >= self.limit_of_source) {
            return false;
        }
        self.taken += 1;
        source.into_iter().for_each(|source| *self.by_source.entry(source).or_default() += 1);
        true
    }

    /// Gives a place back that was taken for the same source.
    pub fn give_back(&mut self, source: Option<u64>) {
        self.taken = self.taken.saturating_sub(1);
        let Some(source) = source else { return };
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// Places that are taken now.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::Places;

    #[test]
    fn nobody_takes_more_than_its_share_and_all_no_more_than_there_are() {
        let mut places = Places::new(5, 2);
        assert!(places.take(Some(1)) && places.take(Some(1)) && !places.take(Some(1)));
        assert!(places.take(Some(2)) && places.take(None) && places.take(None));
        assert!(!places.take(Some(2)) && !places.take(None), "five are taken");
        places.give_back(Some(1));
        assert!(places.take(Some(1)) && !places.take(Some(2)));
        [Some(1), Some(1), Some(2), None, None].into_iter().for_each(|source| places.give_back(source));
        assert_eq!(places.taken(), 0);
        assert!(places.by_source.is_empty(), "nothing is remembered of who is gone");
    }
}
