//! Ready conditions, and what puts them together.

use super::{Answer, Condition};
use crate::change::{Change, Operation};
use crate::row::Row;

/// Holds if `field` has `value` after the change and had not before. An insert with it counts, and so does a row that a snapshot
/// found; a delete never does.
///
/// Needs the row before an update: in Postgres `REPLICA IDENTITY FULL`. An update without one that has `value` now is parked,
/// with a sentence that says so; of one that has another value now nothing need be known.
pub fn became(field: &str, value: &str) -> Condition {
    let (name, field, value) = (format!("became({field}, {value})"), field.to_owned(), value.to_owned());
    Condition::new(name, true, move |change| {
        if !change.after().has(&field, &value) {
            return Answer::Fails;
        }
        match before(change) {
            Before::NoRow => Answer::Holds,
            Before::Row(row) => (!row.has(&field, &value)).into(),
            Before::Missing => Answer::NoRowBefore,
        }
    })
}

/// Holds if the change gave `field` another value, as it is written: on an insert if it has one, on a delete never.
///
/// Needs the row before an update, as [`became`] does.
pub fn changed(field: &str) -> Condition {
    let (name, field) = (format!("changed({field})"), field.to_owned());
    Condition::new(name, true, move |change| {
        let after = change.after();
        if !after.is_present() {
            return Answer::Fails;
        }
        match before(change) {
            Before::NoRow => after.get(&field).is_some().into(),
            Before::Row(row) => (!is_same(after, row, &field)).into(),
            Before::Missing => Answer::NoRowBefore,
        }
    })
}

/// Holds if an update took `field` from one value to another.
///
/// Needs the row before an update, as [`became`] does.
pub fn changed_from_to(field: &str, from: &str, to: &str) -> Condition {
    let name = format!("changed_from_to({field}, {from}, {to})");
    let (field, from, to) = (field.to_owned(), from.to_owned(), to.to_owned());
    Condition::new(name, true, move |change| {
        if !change.after().has(&field, &to) {
            return Answer::Fails;
        }
        match before(change) {
            Before::NoRow => Answer::Fails,
            Before::Row(row) => row.has(&field, &from).into(),
            Before::Missing => Answer::NoRowBefore,
        }
    })
}

/// Holds for changes of one operation.
pub fn operation(operation: Operation) -> Condition {
    let name = format!("operation({})", operation.as_str());
    Condition::new(name, false, move |change| (change.operation() == operation).into())
}

/// Holds for inserts.
pub fn is_insert() -> Condition {
    operation(Operation::Insert)
}

/// Holds for updates.
pub fn is_update() -> Condition {
    operation(Operation::Update)
}

/// Holds for deletes.
pub fn is_delete() -> Condition {
    operation(Operation::Delete)
}

/// Holds for rows that a snapshot found.
pub fn is_read() -> Condition {
    operation(Operation::Read)
}

/// Holds for changes of one table, by its name as the source gives it.
pub fn table(name: &str) -> Condition {
    let (said, name) = (format!("table({name})"), name.to_owned());
    Condition::new(said, false, move |change| (change.table() == name).into())
}

/// Holds if all of these do; of none, always.
pub fn all(conditions: impl IntoIterator<Item = Condition>) -> Condition {
    put_together("all", conditions, Answer::Holds, Answer::Fails)
}

/// Holds if one of these does; of none, never.
pub fn any(conditions: impl IntoIterator<Item = Condition>) -> Condition {
    put_together("any", conditions, Answer::Fails, Answer::Holds)
}

/// Holds if the other does not.
pub fn not(other: Condition) -> Condition {
    Condition::new(format!("not({other})"), other.needs_before, move |change| match other.ask(change) {
        Answer::Holds => Answer::Fails,
        Answer::Fails => Answer::Holds,
        Answer::NoRowBefore => Answer::NoRowBefore,
    })
}

/// A closure with a name of your own, to be put together with others.
pub fn condition(name: &str, holds: impl Fn(&Change) -> bool + Send + Sync + 'static) -> Condition {
    Condition::new(name, false, move |change| holds(change).into())
}

/// Asks one after the other until one answer decides.
fn put_together(word: &str, conditions: impl IntoIterator<Item = Condition>, otherwise: Answer, decides: Answer) -> Condition {
    let conditions: Box<[Condition]> = conditions.into_iter().collect();
    let names: Vec<&str> = conditions.iter().map(Condition::name).collect();
    let name = format!("{word}({})", names.join(", "));
    let needs_before = conditions.iter().any(Condition::needs_before);
    Condition::new(name, needs_before, move |change| {
        let mut answer = otherwise;
        for condition in &conditions {
            match condition.ask(change) {
                decided if decided == decides => return decides,
                Answer::NoRowBefore => answer = Answer::NoRowBefore,
                _ => {}
            }
        }
        answer
    })
}

/// What is known of a row before its change.
enum Before<'a> {
    /// There was none, or none is to be compared with.
    NoRow,
    /// This one.
    Row(Row<'a>),
    /// There was one, and the source has not given it.
    Missing,
}

fn before(change: &Change) -> Before<'_> {
    let row = change.before();
    match change.operation() {
        _ if row.is_present() => Before::Row(row),
        Operation::Update => Before::Missing,
        _ => Before::NoRow,
    }
}

/// Whether two rows have the same in a field. Compared as it is written; only where an escape may write the same otherwise, as text.
fn is_same(one: Row<'_>, other: Row<'_>, field: &str) -> bool {
    match (one.written(field), other.written(field)) {
        (Some(text), Some(other)) if text == other && text != "null" => true,
        (Some(text), Some(other)) if text != other && !text.contains('\\') && !other.contains('\\') => false,
        _ => one.get(field) == other.get(field),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::condition::field;

    fn change(operation: Operation, before: Option<&str>, after: Option<&str>) -> Change {
        let row = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let mut builder = Change::builder("c-1").table("orders").operation(operation);
        if let Some(before) = before {
            builder = builder.before(&row(before));
        }
        if let Some(after) = after {
            builder = builder.after(&row(after));
        }
        builder.build().unwrap()
    }

    const NEW: Option<&str> = Some(r#"{"status":"new"}"#);
    const PAID: Option<&str> = Some(r#"{"status":"paid"}"#);
    const NULL: Option<&str> = Some(r#"{"status":null}"#);
    const EMPTY: Option<&str> = Some("{}");

    #[test]
    fn an_insert_counts_as_became_and_an_update_needs_its_row_before() {
        use Answer::{Fails, Holds, NoRowBefore};
        use Operation::{Delete, Insert, Read, Update};
        #[rustfmt::skip]
        let table = [
            // operation, before, after: became(paid), changed, changed_from_to(new, paid)
            (Insert, None, PAID, [Holds, Holds, Fails]),
            (Insert, None, NEW, [Fails, Holds, Fails]),
            (Insert, None, NULL, [Fails, Holds, Fails]),
            (Insert, None, EMPTY, [Fails, Fails, Fails]),
            (Read, None, PAID, [Holds, Holds, Fails]),
            (Update, NEW, PAID, [Holds, Holds, Holds]),
            (Update, PAID, PAID, [Fails, Fails, Fails]),
            (Update, PAID, NEW, [Fails, Holds, Fails]),
            (Update, NULL, PAID, [Holds, Holds, Fails]),
            (Update, NULL, NULL, [Fails, Fails, Fails]),
            (Update, EMPTY, NULL, [Fails, Holds, Fails]),
            (Update, EMPTY, EMPTY, [Fails, Fails, Fails]),
            (Update, None, PAID, [NoRowBefore, NoRowBefore, NoRowBefore]),
            (Update, None, NEW, [Fails, NoRowBefore, Fails]),
            (Delete, PAID, None, [Fails, Fails, Fails]),
            (Delete, None, None, [Fails, Fails, Fails]),
        ];
        let conditions = [became("status", "paid"), changed("status"), changed_from_to("status", "new", "paid")];
        for (operation, before, after, expected) in table {
            let change = change(operation, before, after);
            let answers = conditions.each_ref().map(|condition| condition.ask(&change));
            assert_eq!(answers, expected, "{operation:?} {before:?} {after:?}");
        }
        assert!(conditions.iter().all(Condition::needs_before));
    }

    #[test]
    fn what_is_written_otherwise_is_the_same_if_it_says_the_same() {
        let escaped = Some(r#"{"status":"p\u0061id"}"#);
        assert_eq!(changed("status").ask(&change(Operation::Update, escaped, PAID)), Answer::Fails);
        assert_eq!(became("status", "paid").ask(&change(Operation::Update, escaped, PAID)), Answer::Fails);
    }

    #[test]
    fn a_document_null_is_not_null() {
        let row = Some(r#"{"doc":null}"#);
        let plain = change(Operation::Update, row, row);
        assert_eq!(changed("doc").ask(&plain), Answer::Fails);
        for (apart, expected) in [(r#"["doc"]"#, Answer::Holds), (r#"["doc",["doc"]]"#, Answer::Fails)] {
            let parts = crate::change::Parts {
                id: "1",
                table: "t",
                key: None,
                operation: Operation::Update,
                time_ms: 0,
                before: row,
                after: row,
            };
            let told = Change::with_names_apart(bytes::Bytes::new(), plain.position(), parts, apart).unwrap();
            assert_eq!(changed("doc").ask(&told), expected, "{apart}");
        }
    }

    #[test]
    fn put_together_an_answer_that_cannot_be_given_counts_only_where_it_decides() {
        use Answer::{Fails, Holds, NoRowBefore};
        let update = change(Operation::Update, None, PAID);
        let unknown = || became("status", "paid");
        for (condition, expected) in [
            (all([unknown(), table("orders")]), NoRowBefore),
            (all([unknown(), table("customers")]), Fails),
            (any([unknown(), table("orders")]), Holds),
            (any([unknown(), table("customers")]), NoRowBefore),
            (not(unknown()), NoRowBefore),
            (not(table("customers")), Holds),
            (all([]), Holds),
            (any([]), Fails),
            (all([is_update(), not(is_insert()), not(is_delete()), not(is_read())]), Holds),
        ] {
            assert_eq!(condition.ask(&update), expected, "{condition}");
        }
    }

    #[test]
    fn a_name_says_what_is_asked() {
        let said = any([not(is_insert()), all([changed("a"), field("b").equals(3)]), condition("mine", |_| true)]);
        assert_eq!(said.name(), "any(not(operation(insert)), all(changed(a), b = 3), mine)");
        assert_eq!(changed_from_to("s", "x", "y").name(), "changed_from_to(s, x, y)");
        assert!(said.needs_before() && !not(table("t")).needs_before());
    }
}
