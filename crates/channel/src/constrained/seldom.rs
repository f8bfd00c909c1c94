//! A list that is mostly empty, and takes one pointer then.

use alloc::{boxed::Box, vec::Vec};
use core::ops::{Deref, DerefMut};

/// What there seldom is any of. `None` if it is empty.
#[expect(clippy::box_collection, reason = "a device has a kilobyte for a pairing, and a Vec takes three words of it")]
pub(super) struct Seldom<T>(Option<Box<Vec<T>>>);

impl<T> Seldom<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    pub(super) fn push(&mut self, item: T) {
        self.insert(self.len(), item);
    }

    /// # Panics
    /// If `index` is beyond the end.
    pub(super) fn insert(&mut self, index: usize, item: T) {
        let items = self.0.get_or_insert_default();
        items.reserve_exact(1);
        items.insert(index, item);
    }

    /// Takes out the first for which it holds.
    pub(super) fn take_if(&mut self, holds: impl FnMut(&T) -> bool) -> Option<T> {
        let items = self.0.as_mut()?;
        let item = items.iter().position(holds).map(|index| items.remove(index));
        self.0.take_if(|items| items.is_empty());
        item
    }
}

impl<T> Deref for Seldom<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl<T> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_deref_mut().map_or(&mut [], Vec::as_mut_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_order_and_takes_a_pointer() {
        assert_eq!(size_of::<Seldom<[u64; 9]>>(), size_of::<usize>());
        let mut seldom = Seldom::new();
        assert!(seldom.is_empty());
        seldom.push(2);
        seldom.push(3);
        seldom.insert(0, 1);
        assert_eq!(*seldom, [1, 2, 3]);
        seldom[1] = 4;
        assert_eq!(seldom.take_if(|item| *item == 4), Some(4));
        assert_eq!(seldom.take_if(|item| *item == 4), None);
        assert_eq!((seldom.take_if(|_| true), seldom.take_if(|_| true)), (Some(1), Some(3)));
        assert!(seldom.0.is_none());
        assert_eq!(seldom.take_if(|_| true), None);
    }
}
