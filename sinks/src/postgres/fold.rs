//! What the rows of a batch end as: of each key, one removal, one row, or both.
//!
//! A transaction shows nobody what lies between, so a key that changes ten times costs one row. A change that has not all columns
//! leaves the others as the one before it in the batch had them. A row that was removed in between begins anew: it is removed
//! first, so that nothing of the old one shows through.

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
}

impl Step {
    fn row(self) -> usize {
        let (Step::Put(row) | Step::Remove(row)) = self;
        row
    }
}

/// What a batch ends as, all by number of the sheet's row and in the order of keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Folded {
    /// Keys that go.
    pub removed: Vec<usize>,
    /// Rows that are put, by the columns they have.
    pub put: BTreeMap<Vec<usize>, Vec<usize>>,
}

/// Folds the steps of a batch, given in order, by the columns of the key. Rows come out in the order of their keys: two transactions
/// that meet then wait for each other, and never both.
pub(super) fn fold(sheet: &mut Sheet, mut steps: Vec<Step>, key: &[usize]) -> Folded {
    let order = |sheet: &Sheet, one: Step, other: Step| {
        let compared = key.iter().map(|column| sheet.text(one.row(), *column).cmp(&sheet.text(other.row(), *column)));
        compared.fold(Ordering::Equal, Ordering::then)
    };
    steps.sort_by(|one, other| order(sheet, *one, *other));
    let mut folded = Folded::default();
    let mut rest = &steps[..];
    while let Some(first) = rest.first() {
        let many = rest.iter().take_while(|step| order(sheet, *first, **step) == Ordering::Equal).count();
        let (mut removed, mut put) = (None, None);
        for step in &rest[..many] {
            match (*step, put) {
                (Step::Remove(row), _) => (removed, put) = (Some(row), None),
                (Step::Put(row), None) => put = Some(row),
                (Step::Put(row), Some(standing)) => sheet.lay_over(standing, row),
            }
        }
        folded.removed.extend(removed);
        folded.put_all(sheet, put);
        rest = &rest[many..];
    }
    folded
}

/// Rows by the columns they have, in their order.
pub(super) fn by_columns(sheet: &Sheet, rows: impl IntoIterator<Item = usize>) -> BTreeMap<Vec<usize>, Vec<usize>> {
    let mut folded = Folded::default();
    folded.put_all(sheet, rows);
    folded.put
}

impl Folded {
    fn put_all(&mut self, sheet: &Sheet, rows: impl IntoIterator<Item = usize>) {
        for row in rows {
            let cells = sheet.row(row);
            // Nearly always there is one kind of row.
            let has = |columns: &[usize]| {
                columns.len() == cells.iter().filter(|cell| **cell != Cell::Absent).count()
                    && columns.iter().all(|column| cells[*column] != Cell::Absent)
            };
            match self.put.iter_mut().find(|(columns, _)| has(columns)) {
                Some((_, rows)) => rows.push(row),
                None => {
                    let columns = (0..cells.len()).filter(|column| cells[*column] != Cell::Absent).collect();
                    self.put.insert(columns, vec![row]);
                }
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

    #[test]
    fn the_last_of_a_key_counts_and_leaves_what_it_does_not_have() {
        let mut sheet = sheet(&[["2", "x", "y"], ["1", "p", "q"], ["2", "-", "z"]]);
        let folded = fold(&mut sheet, vec![Step::Put(0), Step::Put(1), Step::Put(2)], &[0]);
        assert_eq!((folded.removed.len(), &folded.put[&vec![0, 1, 2]]), (0, &vec![1, 0]));
        assert_eq!((sheet.text(0, 1), sheet.text(0, 2)), (Some(&b"x"[..]), Some(&b"z"[..])));
    }

    #[test]
    fn a_key_that_goes_and_comes_back_begins_anew() {
        let mut sheet = sheet(&[["1", "x", "y"], ["1", "-", "-"], ["1", "-", "w"], ["2", "-", "-"]]);
        let steps = vec![Step::Put(0), Step::Remove(1), Step::Put(2), Step::Remove(3)];
        let folded = fold(&mut sheet, steps, &[0]);
        assert_eq!(folded.removed, [1, 3]);
        assert_eq!(folded.put, BTreeMap::from([(vec![0, 2], vec![2])]));
    }

    #[test]
    fn a_key_that_goes_last_is_only_removed() {
        let mut sheet = sheet(&[["1", "x", "y"], ["1", "-", "-"]]);
        let folded = fold(&mut sheet, vec![Step::Put(0), Step::Remove(1)], &[0]);
        assert_eq!(folded, Folded { removed: vec![1], put: BTreeMap::new() });
    }
}
