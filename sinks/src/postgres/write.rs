//! One transaction: a share of the generation, the outcomes, and only then the rows.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::SinkExt;
use highwater_operators::action::Delivery;
use highwater_operators::action::transactional::Transaction;
use highwater_operators::postgres::failed;
use highwater_operators::{Error, ErrorKind, Operation, Result, Value};
use tokio_postgres::types::{ToSql, Type};

use super::bookkeeping::Standing;
use super::catalog::Layout;
use super::fold::{Columns, Step, by_columns, fold};
use super::mapping::{Source, follow, time};
use super::sheet::{Cell, Column, Sheet};
use super::values::Form;
use super::{Deletes, Description, Mode, Open, values};

/// Bytes of lines that are handed over to a `copy` together.
const PIECE: usize = 64 << 10;

pub(super) async fn apply(open: &Open, description: &Description, transaction: Transaction<'_>) -> Result {
    let mut client = open.pool.get().await?;
    let (layout, is_fresh) = open.layout(&client, description).await?;
    let (sheet, steps) = layout.fill(description, &transaction)?;
    let what = format!("writing to {}", layout.table);
    let within = client.transaction().await.map_err(|error| failed(&what, error))?;
    let standing = open.bookkeeping.stand(&within, transaction.run, transaction.number, transaction.outcomes).await?;
    if standing == Standing::Committed {
        return Ok(());
    }
    let written = match description.mode {
        Mode::Append => layout.append(&within, &sheet, &steps).await,
        Mode::Upsert => layout.upsert(&within, &sheet, steps).await,
    };
    let committed = match written {
        Ok(()) => within.commit().await,
        Err(error) => Err(error),
    };
    let Err(error) = committed else { return Ok(()) };
    // The table may have been altered since it was looked at: look again, once.
    let is_altered = error.code().is_some_and(|code| code.code().starts_with("42") || code.code().starts_with("0A"));
    let error = failed(&what, error);
    if is_altered {
        *open.layout.write().await = None;
        if !is_fresh && error.kind() == ErrorKind::Stop {
            return Err(Error::retry(error.to_string()));
        }
    }
    Err(error)
}

type Written = Result<(), tokio_postgres::Error>;

impl Layout {
    /// Makes rows of changes.
    fn fill(&self, description: &Description, transaction: &Transaction<'_>) -> Result<(Sheet, Vec<Step>)> {
        let changes = transaction.changes();
        let mut sheet = Sheet::new(self.columns.len(), changes.len());
        let mut steps = Vec::with_capacity(changes.len());
        for change in changes {
            let operation = change.operation();
            let is_delete = description.mode == Mode::Upsert && operation == Operation::Delete;
            let empties = description.mode == Mode::Upsert || description.empties;
            let is_truncate = empties && operation == Operation::Truncate;
            if (is_delete || is_truncate) && description.deletes == Deletes::Ignore {
                continue;
            }
            if is_truncate {
                // Its row holds the mark, where there is one.
                let row = sheet.add_row();
                self.mark_row(&mut sheet, row, change, true);
                steps.push(Step::Empty(row));
                continue;
            }
            if operation == Operation::Message && description.mode == Mode::Upsert {
                // It is of no row.
                continue;
            }
            let row = sheet.add_row();
            self.fill_row(&mut sheet, row, change, is_delete)?;
            if matches!(operation, Operation::Truncate | Operation::Message)
                && sheet.row(row).iter().all(|cell| *cell == Cell::Absent)
            {
                // It fills nothing: there is no column for what it tells.
                continue;
            }
            steps.push(match (is_delete, self.mark) {
                (false, _) => Step::Put(row),
                (true, None) => Step::Remove(row),
                (true, Some(_)) => Step::Mark(row),
            });
        }
        Ok((sheet, steps))
    }

    fn fill_row(&self, sheet: &mut Sheet, row: usize, change: &Delivery, is_delete: bool) -> Result {
        // Fields come in the order of the last row, nearly always: what is looked for is then the next.
        let mut next = 0;
        for (name, value) in change.row().to_vec() {
            let (first, fields) = (next, self.fields.len());
            for step in 0..fields {
                let at = (first + step) % fields;
                let (field, path, column) = &self.fields[at];
                if *field != name {
                    continue;
                }
                next = at + 1;
                if (!is_delete || self.key.contains(column))
                    && sheet.row(row)[*column] == Cell::Absent
                    && let Some(value) = follow(value.clone(), path)
                {
                    // A document that is a text keeps its escapes.
                    let is_document = self.columns[*column].form == Form::Json && path.is_empty();
                    let written = if is_document && matches!(value, Value::Text(_)) { change.row().written(&name) } else { None };
                    match written.map_or(value, Value::Other) {
                        Value::Unchanged => sheet.keep(row, *column),
                        value => sheet.set(row, *column, |to| values::write(&value, self.columns[*column].form, to)),
                    }
                }
                if !self.fields_repeat {
                    break;
                }
            }
        }
        for (at, column) in self.columns.iter().enumerate() {
            if Some(at) == self.mark || (is_delete && !self.key.contains(&at)) {
                continue;
            }
            let text = |text: &str| Some(Value::Text(text.to_owned().into()));
            let value = match &column.source {
                Source::Field(_) => continue,
                Source::Found(lookup, path) => change.found(lookup).get(&path[0]).and_then(|value| follow(value, &path[1..])),
                Source::Id => text(change.id()),
                Source::Key => text(change.key()),
                Source::Table => text(change.table()),
                Source::Operation => text(change.operation().as_str()),
                Source::Time => text(&time(change)),
            };
            match value {
                None => {}
                Some(Value::Unchanged) => sheet.keep(row, at),
                Some(value) => sheet.set(row, at, |to| values::write(&value, column.form, to)),
            }
        }
        self.mark_row(sheet, row, change, is_delete);
        for column in &self.key {
            if sheet.text(row, *column).is_some() {
                continue;
            }
            if is_delete && self.key.len() == 1 && sheet.row(row)[*column] == Cell::Absent {
                // A delete may come without its row; it has its key.
                sheet.set(row, *column, |to| {
                    to.extend_from_slice(change.key().as_bytes());
                    true
                });
                continue;
            }
            let column = &self.columns[*column].name;
            return Err(Error::park(format!("the change has no value for column {column} of the key of table {}", self.table)));
        }
        Ok(())
    }

    /// Fills the column that says whether the row is deleted, where there is one.
    fn mark_row(&self, sheet: &mut Sheet, row: usize, change: &Delivery, is_delete: bool) {
        let Some(mark) = self.mark else { return };
        let is_bool = self.columns[mark].is_bool;
        sheet.set(row, mark, |to| {
            let text = match (is_delete, is_bool) {
                (true, true) => "true".to_owned(),
                (true, false) => time(change),
                (false, true) => "false".to_owned(),
                (false, false) => return false,
            };
            to.extend_from_slice(text.as_bytes());
            true
        });
    }

    fn names(&self, columns: &[usize]) -> String {
        columns.iter().map(|column| self.columns[*column].name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// `select` of the rows that the parameters hold, cast to the types of the columns and named like them.
    fn rows(&self, columns: &[usize]) -> String {
        let cast = |(at, column): (usize, &usize)| {
            let column = &self.columns[*column];
            format!("c{at}::{} as {}", column.cast, column.name)
        };
        let each = |text: &dyn Fn(usize) -> String| (0..columns.len()).map(text).collect::<Vec<_>>().join(", ");
        let casts = columns.iter().enumerate().map(cast).collect::<Vec<_>>().join(", ");
        // In `from`, not in the list of `select`: a sixth cheaper for the server.
        format!("select {casts} from unnest({}) as u({})", each(&|at| format!("${}", at + 1)), each(&|at| format!("c{at}")))
    }

    async fn execute(
        within: &tokio_postgres::Transaction<'_>,
        sql: &str,
        sheet: &Sheet,
        rows: &[usize],
        columns: &[usize],
    ) -> Written {
        let values: Vec<Column<'_>> = columns.iter().map(|column| Column { sheet, rows, column: *column }).collect();
        let values: Vec<(&(dyn ToSql + Sync), Type)> = values.iter().map(|value| (value as _, Type::TEXT_ARRAY)).collect();
        within.execute_typed(sql, &values).await.map(drop)
    }

    /// Appends rows; those before all rows go need not come.
    async fn append(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, mut steps: &[Step]) -> Written {
        if let Some(last) = steps.iter().rposition(|step| matches!(step, Step::Empty(_))) {
            self.empty(within, sheet, steps[last].row()).await?;
            steps = &steps[last + 1..];
        }
        let rows = steps.iter().map(|step| step.row());
        for (Columns { given: columns, .. }, rows) in by_columns(sheet, rows) {
            let sql = format!("copy {} ({}) from stdin", self.table, self.names(&columns));
            let copy = within.copy_in(&sql).await?;
            let mut copy = Box::pin(copy);
            let mut lines = Vec::with_capacity(PIECE + 4096);
            for row in rows {
                sheet.write_line(row, &columns, &mut lines);
                if lines.len() >= PIECE {
                    let full = std::mem::replace(&mut lines, Vec::with_capacity(PIECE + 4096));
                    copy.feed(Bytes::from(full)).await?;
                }
            }
            copy.feed(Bytes::from(lines)).await?;
            copy.as_mut().finish().await?;
        }
        Ok(())
    }

    /// Does what the changes do to the rows of their keys.
    async fn upsert(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, steps: Vec<Step>) -> Written {
        // What comes before all rows go leaves no trace, unless they stay and are marked.
        let mut first = 0;
        for (at, step) in steps.iter().enumerate() {
            if let Step::Empty(row) = *step {
                if self.mark.is_some() {
                    self.fold_and_do(within, sheet, steps[first..at].to_vec()).await?;
                }
                self.empty(within, sheet, row).await?;
                first = at + 1;
            }
        }
        self.fold_and_do(within, sheet, steps[first..].to_vec()).await
    }

    async fn fold_and_do(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, steps: Vec<Step>) -> Written {
        for wave in fold(sheet, steps, &self.key) {
            self.remove(within, sheet, &wave.removed).await?;
            self.mark(within, sheet, &wave.marked).await?;
            self.put(within, sheet, wave.put).await?;
        }
        Ok(())
    }

    /// All rows go, or are marked as deleted.
    async fn empty(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, row: usize) -> Written {
        let Some(mark) = self.mark else {
            return within.batch_execute(&format!("truncate {}", self.table)).await;
        };
        let name = &self.columns[mark].name;
        let given = self.rows(&[mark]);
        let sql = format!("update {} t set {name} = given.{name} from ({given}) given", self.table);
        Self::execute(within, &sql, sheet, &[row], &[mark]).await
    }

    /// Puts rows, those with the same columns together.
    async fn put(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, put: BTreeMap<Columns, Vec<usize>>) -> Written {
        for (Columns { given: columns, mut kept }, rows) in put {
            // What a row must have and the change lacks can only be as it was.
            let must = |at: &usize| self.columns[*at].is_needed && !columns.contains(at) && !kept.contains(at);
            let lacks: Vec<usize> = (0..self.columns.len()).filter(must).collect();
            kept.extend(lacks);
            let set = columns.iter().filter(|column| !self.key.contains(column)).map(|column| {
                let name = &self.columns[*column].name;
                format!("{name} = excluded.{name}")
            });
            let set: Vec<String> = set.collect();
            let update = if set.is_empty() { "nothing".to_owned() } else { format!("update set {}", set.join(", ")) };
            let over = columns.iter().any(|column| self.columns[*column].is_always_generated);
            let mut given = self.rows(&columns);
            let mut names = self.names(&columns);
            if !kept.is_empty() {
                // What is kept is read from the row that is there: a column that must not be null has to be named.
                let old: Vec<String> = kept.iter().map(|column| format!("t.{}", self.columns[*column].name)).collect();
                let on = self.on_key();
                given = format!("select given.*, {} from ({given}) given left join {} t on {on}", old.join(", "), self.table);
                names = format!("{names}, {}", self.names(&kept));
            }
            let sql = format!(
                "insert into {} ({names}) {} {given} on conflict ({}) do {update}",
                self.table,
                if over { "overriding system value" } else { "" },
                self.names(&self.key),
            );
            Self::execute(within, &sql, sheet, &rows, &columns).await?;
        }
        Ok(())
    }

    fn on_key(&self) -> String {
        let same = |column: &usize| format!("t.{name} = given.{name}", name = self.columns[*column].name);
        self.key.iter().map(same).collect::<Vec<_>>().join(" and ")
    }

    /// Removes the rows of these keys.
    async fn remove(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, rows: &[usize]) -> Written {
        if rows.is_empty() {
            return Ok(());
        }
        let sql = format!("delete from {} t using ({}) given where {}", self.table, self.rows(&self.key), self.on_key());
        Self::execute(within, &sql, sheet, rows, &self.key).await
    }

    /// Marks the rows of these keys as deleted.
    async fn mark(&self, within: &tokio_postgres::Transaction<'_>, sheet: &Sheet, rows: &[usize]) -> Written {
        let Some(mark) = self.mark.filter(|_| !rows.is_empty()) else { return Ok(()) };
        let columns: Vec<usize> = self.key.iter().copied().chain([mark]).collect();
        let name = &self.columns[mark].name;
        let given = self.rows(&columns);
        let sql = format!("update {} t set {name} = given.{name} from ({given}) given where {}", self.table, self.on_key());
        Self::execute(within, &sql, sheet, rows, &columns).await
    }
}
