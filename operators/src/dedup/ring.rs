//! The entries in the order in which they came, in pieces: nothing is copied when it grows, and a piece whose last entry has
//! gone is filled again.

use std::collections::VecDeque;

/// Entries in a piece, and emptied pieces that are kept.
const PIECE: usize = 4096;
const SPARE_MAX: usize = 16;

/// A queue with access by place.
#[derive(Debug)]
pub(super) struct Ring<T> {
    pieces: VecDeque<Vec<T>>,
    /// Entries at the front of the first piece that have gone.
    gone: usize,
    len: usize,
    spare: Vec<Vec<T>>,
}

impl<T: Copy> Ring<T> {
    pub(super) fn new() -> Self {
        Ring { pieces: VecDeque::new(), gone: 0, len: 0, spare: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry so many places behind the front.
    pub(super) fn get(&self, place: usize) -> Option<&T> {
        let place = place + self.gone;
        self.pieces.get(place / PIECE)?.get(place % PIECE)
    }

    pub(super) fn push_back(&mut self, entry: T) {
        match self.pieces.back_mut() {
            Some(last) if last.len() < PIECE => last.push(entry),
            _ => {
                let mut piece = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(PIECE));
                piece.push(entry);
                self.pieces.push_back(piece);
            }
        }
        self.len += 1;
    }

    pub(super) fn pop_front(&mut self) {
        debug_assert!(self.len > 0);
        self.gone += 1;
        self.len -= 1;
        if self.gone == PIECE
            && let Some(mut piece) = self.pieces.pop_front()
        {
            self.gone = 0;
            if self.spare.len() < SPARE_MAX {
                piece.clear();
                self.spare.push(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oracle_it_holds_what_a_queue_holds() {
        let (mut ring, mut queue) = (Ring::new(), VecDeque::new());
        for n in 0..20_000_u32 {
            ring.push_back(n);
            queue.push_back(n);
            // Runs nearly empty now and then, and over the borders of pieces.
            while queue.len() > (n as usize % 6_000) + 1 {
                ring.pop_front();
                queue.pop_front();
            }
            assert_eq!(ring.len(), queue.len());
            for place in [0, 1, queue.len() / 2, queue.len() - 1, queue.len()] {
                assert_eq!(ring.get(place), queue.get(place), "{n}, {place}");
            }
        }
    }
}
