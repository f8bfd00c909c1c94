//! Several frames in one buffer: one allocation, one hand-over, many frames.

use alloc::vec::Vec;

/// Frames in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    octets: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// No frames, and no allocation.
    #[must_use]
    pub const fn new() -> Self {
        Self { octets: Vec::new(), ends: Vec::new() }
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &[u8]) {
        self.octets.extend_from_slice(frame);
        self.ends.push(self.octets.len());
    }

    /// Appends a frame of at most `space` octets, which `write` writes into as many zeros and tells the length of. If it fails,
    /// nothing is appended.
    ///
    /// # Errors
    /// What `write` fails with.
    pub fn push_with<E>(&mut self, space: usize, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let start = self.octets.len();
        self.octets.resize(start + space, 0);
        let written = write(self.octets.get_mut(start..).unwrap_or_default());
        self.octets.truncate(start + written.as_ref().map_or(0, |len| (*len).min(space)));
        written.map(|_| self.ends.push(self.octets.len()))
    }

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Octets of all frames together.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.octets.len()
    }

    /// Forgets the frames and keeps the memory.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
    }

    /// Forgets the frames from number `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.octets.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// The frame of number `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let (start, end) = self.bounds(index)?;
        self.octets.get(start..end)
    }

    /// The frame of number `index`, to be decrypted in place.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        let (start, end) = self.bounds(index)?;
        self.octets.get_mut(start..end)
    }

    fn bounds(&self, index: usize) -> Option<(usize, usize)> {
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        Some((start, *self.ends.get(index)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_their_bounds() {
        let mut frames = Frames::new();
        for frame in [b"one".as_slice(), b"", b"three"] {
            frames.push(frame);
        }
        assert_eq!((frames.len(), frames.octets()), (3, 8));
        frames.push(b"four");
        frames.truncate(3);
        assert_eq!((frames.len(), frames.octets()), (3, 8));
        assert_eq!(frames.push_with(9, |_| Err(7)), Err(7));
        assert_eq!((frames.len(), frames.octets()), (3, 8));
        let four = |space: &mut [u8]| {
            assert_eq!(space, [0; 9]);
            space[..4].copy_from_slice(b"four");
            Ok::<_, ()>(4)
        };
        assert_eq!(frames.push_with(9, four), Ok(()));
        assert_eq!((frames.len(), frames.octets(), frames.get(3)), (4, 12, Some(b"four".as_slice())));
        frames.truncate(3);
        assert_eq!(
            [frames.get(0), frames.get(1), frames.get(2), frames.get(3)],
            [Some(b"one".as_slice()), Some(b"".as_slice()), Some(b"three".as_slice()), None]
        );
    }
}
