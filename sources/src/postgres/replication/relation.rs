//! A table as the server describes it before its rows, and how the values of its columns are written.

use std::collections::HashMap;

/// A table at some point of the log: the server describes it anew when it was altered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    /// Its number.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub columns: Vec<Column>,
    pub identity: ReplicaIdentity,
    /// `schema.name`, as changes have it.
    pub table: String,
    /// The columns that tell rows apart, by their places: what keys are made of, and what a snapshot goes by. Empty: there are none.
    pub key: Vec<usize>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    /// Whether it is of the replica identity; of a whole row all are.
    pub is_key: bool,
    /// How its values become JSON.
    pub form: Form,
    /// `"name":`, as rows have it.
    pub label: Vec<u8>,
}

/// What an update or a delete tells of the row before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing: then there are neither updates nor deletes.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
}

/// How the text of a value becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `t` and `f`.
    Bool,
    /// A number, digit by digit; what is none in JSON (`NaN`, `Infinity`) is a string.
    Number,
    /// JSON already.
    Json,
    /// A list whose elements are of this form; one with bounds of its own is a string.
    List(Box<Form>),
    /// A string.
    Text,
}

impl Relation {
    pub(super) fn new(oid: u32, schema: String, name: String, identity: ReplicaIdentity, columns: Vec<Column>) -> Self {
        let key = match identity {
            // All columns are said to be of it. Which tell rows apart is to be asked.
            ReplicaIdentity::Full => Vec::new(),
            _ => columns.iter().enumerate().filter(|(_, column)| column.is_key).map(|(at, _)| at).collect(),
        };
        let table = format!("{schema}.{name}");
        Relation { oid, schema, name, columns, identity, table, key }
    }

    /// The same with these columns as its key, if it has them all; what the catalog says of a table whose rows come whole.
    pub(super) fn with_key(mut self, names: &[String]) -> Self {
        let find = |name: &String| self.columns.iter().position(|column| column.name == *name);
        self.key = names.iter().map(find).collect::<Option<_>>().unwrap_or_default();
        self
    }

    /// The names of the key's columns.
    pub(super) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().filter_map(|at| self.columns.get(*at)).map(|column| column.name.as_str())
    }
}

impl Column {
    pub(super) fn new(name: String, type_oid: u32, typmod: i32, is_key: bool, types: &Types) -> Self {
        let mut label = Vec::with_capacity(name.len() + 3);
        super::rows::quote(name.as_bytes(), &mut label);
        label.push(b':');
        Column { form: types.form(type_oid), name, type_oid, typmod, is_key, label }
    }
}

/// The forms of types that somebody has made in the database; those that come with Postgres are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Types(HashMap<u32, Form>);

/// Types with smaller numbers come with Postgres.
pub(super) const FIRST_OWN: u32 = 16_384;

/// Asks for the types somebody has made: number, what a domain is of (else 0), the elements of a list (else 0).
pub(super) const OWN_TYPES: &str = "select t.oid, case when t.typtype = 'd' then t.typbasetype else 0::oid end, \
     case when e.oid is not null and e.typdelim = ',' then e.oid else 0::oid end \
     from pg_type t left join pg_type e on e.typarray = t.oid where t.oid >= 16384 and (t.typtype = 'd' or e.oid is not null)";

impl Types {
    /// Of the rows of [`OWN_TYPES`].
    pub(super) fn of(rows: &[(u32, u32, u32)]) -> Self {
        let rows: HashMap<u32, (u32, u32)> = rows.iter().map(|(oid, base, element)| (*oid, (*base, *element))).collect();
        Types(rows.keys().map(|oid| (*oid, own(&rows, *oid, 8))).collect())
    }

    fn form(&self, oid: u32) -> Form {
        self.0.get(&oid).cloned().unwrap_or_else(|| known(oid))
    }
}

/// The form of a type that somebody has made. A domain may be of another one, and of a list of others.
fn own(rows: &HashMap<u32, (u32, u32)>, oid: u32, depth: u32) -> Form {
    match rows.get(&oid) {
        Some(_) if depth == 0 => Form::Text,
        Some((0, 0)) => Form::Text,
        Some((0, element)) => match own(rows, *element, depth - 1) {
            // A list whose elements are written as lists could not be told from a list of more dimensions.
            Form::List(_) => Form::Text,
            element => Form::List(Box::new(element)),
        },
        Some((base, _)) => own(rows, *base, depth - 1),
        None => known(oid),
    }
}

/// The form of a type that comes with Postgres. Lists are told one by one: `int2vector` looks like one and is written otherwise, and those of
/// boxes are separated by semicolons.
fn known(oid: u32) -> Form {
    let list = |form| Form::List(Box::new(form));
    match oid {
        16 => Form::Bool,
        20 | 21 | 23 | 26 | 700 | 701 | 1700 => Form::Number,
        114 | 3802 => Form::Json,
        1000 => list(Form::Bool),
        1005 | 1007 | 1016 | 1021 | 1022 | 1028 | 1231 => list(Form::Number),
        199 | 3807 => list(Form::Json),
        // Text and names; bytes and bits; times; networks; what is drawn; searches, ranges and the rest.
        1002 | 1003 | 1009 | 1014 | 1015 | 1001 | 1561 | 1563 | 1115 | 1182 | 1183 | 1185 | 1187 | 1270 => list(Form::Text),
        651 | 775 | 1040 | 1041 | 629 | 719 | 1017 | 1018 | 1019 | 1027 => list(Form::Text),
        143 | 791 | 2951 | 3221 | 3643 | 3645 | 3905 | 3907 | 3909 | 3911 | 3913 | 3927 | 6150..=6157 => list(Form::Text),
        _ => Form::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_and_lists_of_them_are_what_they_are_of() {
        // A domain of a domain of numeric, its list, a list of an enumeration, and a domain that is its own.
        let types =
            Types::of(&[(20_000, 20_001, 0), (20_001, 1700, 0), (20_002, 0, 20_000), (20_003, 0, 20_100), (20_004, 20_004, 0)]);
        let forms = [20_000, 20_002, 20_003, 20_004, 20_100, 1016, 1020].map(|oid| types.form(oid));
        let list = |form| Form::List(Box::new(form));
        let expected =
            [Form::Number, list(Form::Number), list(Form::Text), Form::Text, Form::Text, list(Form::Number), Form::Text];
        assert_eq!(forms, expected);
    }

    #[test]
    fn a_whole_row_has_the_key_that_the_catalog_tells() {
        let column = |name: &str| Column::new(name.to_owned(), 23, -1, true, &Types::default());
        let relation = Relation::new(1, "public".into(), "t".into(), ReplicaIdentity::Full, vec![column("a"), column("b\"")]);
        assert_eq!(
            (relation.key.len(), relation.table.as_str(), &relation.columns[1].label[..]),
            (0, "public.t", &b"\"b\\\"\":"[..])
        );
        let keyed = relation.clone().with_key(&["b\"".to_owned()]);
        assert_eq!(keyed.key_names().collect::<Vec<_>>(), ["b\""]);
        assert!(relation.with_key(&["b\"".to_owned(), "gone".to_owned()]).key.is_empty());
    }
}
