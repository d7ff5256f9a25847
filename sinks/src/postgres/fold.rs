//! What of a batch must be done, and in which order: of each key what is not overwritten by what comes after it.
//!
//! A transaction shows nobody what lies between, so a key that changes ten times costs one row. But only what leaves no trace is
//! left out: a change that has a column which the later one lacks is done before it, in a wave of its own. So the table ends the
//! same however changes were dealt to transactions.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::sheet::{Cell, Sheet};

/// What one change does to the row of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is as the sheet's row of this number says.
    Put(usize),
    /// It goes; the sheet's row has its key.
    Remove(usize),
    /// It stays, and is marked; the sheet's row has its key and the mark.
    Mark(usize),
    /// All rows of the table go; the sheet's row has the mark, if rows are marked instead. Never folded with others.
    Empty(usize),
}

impl Step {
    pub(super) fn row(self) -> usize {
        let (Step::Put(row) | Step::Remove(row) | Step::Mark(row) | Step::Empty(row)) = self;
        row
    }

    /// Whether nothing is left of `earlier` after this one.
    fn covers(self, earlier: Step, sheet: &Sheet) -> bool {
        match (earlier, self) {
            // A row that is put says of its own that it is not marked.
            (_, Step::Remove(_)) | (Step::Mark(_), Step::Put(_) | Step::Mark(_)) => true,
            (Step::Put(earlier), Step::Put(row)) => {
                let mut cells = sheet.row(earlier).iter().zip(sheet.row(row));
                cells.all(|(earlier, cell)| !earlier.is_given() || cell.is_given())
            }
            (Step::Remove(_), Step::Put(_) | Step::Mark(_)) | (Step::Put(_), Step::Mark(_)) => false,
            (Step::Empty(_), _) | (_, Step::Empty(_)) => false,
        }
    }
}

/// What can be done at once: no key is in it twice. All by number of the sheet's row and in the order of keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wave {
    /// Keys that go.
    pub removed: Vec<usize>,
    /// Keys whose rows, if there are any, are marked.
    pub marked: Vec<usize>,
    /// Rows that are put, by the columns they have.
    pub put: BTreeMap<Columns, Vec<usize>>,
}

/// The columns that a row has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Columns {
    /// Those with values, null or not.
    pub given: Vec<usize>,
    /// Those that are as they were.
    pub kept: Vec<usize>,
}

/// Folds the steps of a batch, given in order, by the columns of the key. Rows come out in the order of their keys: two transactions
/// that meet then wait for each other, and never both.
pub(super) fn fold(sheet: &Sheet, mut steps: Vec<Step>, key: &[usize]) -> Vec<Wave> {
    let order = |one: &Step, other: &Step| {
        let compared = key.iter().map(|column| sheet.text(one.row(), *column).cmp(&sheet.text(other.row(), *column)));
        compared.fold(Ordering::Equal, Ordering::then)
    };
    steps.sort_by(order);
    let mut waves: Vec<Wave> = Vec::new();
    let mut kept: Vec<Step> = Vec::new();
    for of_key in steps.chunk_by(|one, other| order(one, other) == Ordering::Equal) {
        for step in of_key {
            while kept.last().is_some_and(|earlier| step.covers(*earlier, sheet)) {
                kept.pop();
            }
            kept.push(*step);
        }
        for (at, step) in kept.drain(..).enumerate() {
            if waves.len() == at {
                waves.push(Wave::default());
            }
            match step {
                Step::Put(row) => waves[at].put(sheet, row),
                Step::Remove(row) => waves[at].removed.push(row),
                Step::Mark(row) => waves[at].marked.push(row),
                Step::Empty(_) => {}
            }
        }
    }
    waves
}

/// Rows by the columns they have, in their order.
pub(super) fn by_columns(sheet: &Sheet, rows: impl IntoIterator<Item = usize>) -> BTreeMap<Columns, Vec<usize>> {
    let mut wave = Wave::default();
    rows.into_iter().for_each(|row| wave.put(sheet, row));
    wave.put
}

impl Wave {
    fn put(&mut self, sheet: &Sheet, row: usize) {
        let cells = sheet.row(row);
        // Nearly always there is one kind of row.
        let has = |columns: &Columns| {
            columns.given.len() == cells.iter().filter(|cell| cell.is_given()).count()
                && columns.kept.len() == cells.iter().filter(|cell| **cell == Cell::Unchanged).count()
                && columns.given.iter().all(|column| cells[*column].is_given())
                && columns.kept.iter().all(|column| cells[*column] == Cell::Unchanged)
        };
        match self.put.iter_mut().find(|(columns, _)| has(columns)) {
            Some((_, rows)) => rows.push(row),
            None => {
                let given = (0..cells.len()).filter(|column| cells[*column].is_given()).collect();
                let kept = (0..cells.len()).filter(|column| cells[*column] == Cell::Unchanged).collect();
                self.put.insert(Columns { given, kept }, vec![row]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sheet of key, a, b; `-` is absent.
    fn sheet(rows: &[[&str; 3]]) -> Sheet {
        let mut sheet = Sheet::new(3, rows.len());
        for cells in rows {
            let row = sheet.add_row();
            for (column, text) in cells.iter().enumerate().filter(|(_, text)| **text != "-") {
                sheet.set(row, column, |to| {
                    to.extend_from_slice(text.as_bytes());
                    true
                });
            }
        }
        sheet
    }

    fn put(columns: &[usize], rows: &[usize]) -> Wave {
        let columns = Columns { given: columns.to_vec(), kept: Vec::new() };
        Wave { put: BTreeMap::from([(columns, rows.to_vec())]), ..Wave::default() }
    }

    #[test]
    fn what_is_overwritten_whole_is_left_out() {
        let sheet = sheet(&[["2", "x", "-"], ["1", "p", "q"], ["2", "y", "z"]]);
        assert_eq!(fold(&sheet, vec![Step::Put(0), Step::Put(1), Step::Put(2)], &[0]), [put(&[0, 1, 2], &[1, 2])]);
    }

    #[test]
    fn what_leaves_a_trace_is_done_before() {
        let sheet = sheet(&[["2", "x", "y"], ["1", "p", "q"], ["2", "-", "z"], ["2", "-", "w"]]);
        let waves = fold(&sheet, (0..4).map(Step::Put).collect(), &[0]);
        assert_eq!(waves, [put(&[0, 1, 2], &[1, 0]), put(&[0, 2], &[3])]);
    }

    #[test]
    fn what_is_kept_leaves_what_was_before() {
        let mut sheet = sheet(&[["1", "x", "y"], ["1", "z", "-"], ["1", "-", "w"]]);
        sheet.keep(1, 2);
        let kept = Columns { given: vec![0, 1], kept: vec![2] };
        let waves = fold(&sheet, vec![Step::Put(0), Step::Put(1)], &[0]);
        assert_eq!(waves, [put(&[0, 1, 2], &[0]), Wave { put: BTreeMap::from([(kept, vec![1])]), ..Wave::default() }]);
        assert_eq!(fold(&sheet, vec![Step::Put(1), Step::Put(0)], &[0]), [put(&[0, 1, 2], &[0])]);
    }

    #[test]
    fn a_key_that_goes_and_comes_back_begins_anew() {
        let sheet = sheet(&[["1", "x", "y"], ["1", "-", "-"], ["1", "-", "w"], ["2", "-", "-"]]);
        let waves = fold(&sheet, vec![Step::Put(0), Step::Remove(1), Step::Put(2), Step::Remove(3)], &[0]);
        assert_eq!(waves, [Wave { removed: vec![1, 3], ..Wave::default() }, put(&[0, 2], &[2])]);
    }

    #[test]
    fn a_mark_stays_on_what_was_put_and_goes_with_what_is_put() {
        let sheet = sheet(&[["1", "x", "-"], ["1", "-", "m"], ["2", "-", "m"], ["2", "z", "-"]]);
        let waves = fold(&sheet, vec![Step::Put(0), Step::Mark(1), Step::Mark(2), Step::Put(3)], &[0]);
        assert_eq!(waves, [put(&[0, 1], &[0, 3]), Wave { marked: vec![1], ..Wave::default() }]);
    }
}
