//! The edges of every type: read as rows that were there, inserted, and updated.

use highwater::testing::postgres::{Database, Server};

use super::Copy;

/// A type, and SQL for its values.
type Values = (&'static str, &'static [&'static str]);

const NUMBERS: &[Values] = &[
    ("smallint", &["-32768", "32767", "0"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807", "9007199254740993"]),
    (
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "repeat('9', 1000)::numeric",
            "-1.10",
            "0.000",
            "1e-900::numeric",
            "1e900::numeric",
        ],
    ),
    ("numeric(12,5)", &["1234567.00001", "-0.1", "'NaN'"]),
    ("real", &["'-0'", "'NaN'", "'Infinity'", "'-Infinity'", "3.4028235e38", "1e-45", "0.1"]),
    ("double precision", &["'-0'", "'NaN'", "'Infinity'", "'-Infinity'", "1.7976931348623157e308", "5e-324", "0.1", "1e23"]),
    ("money", &["'-92233720368547758.08'", "'0.01'"]),
    ("boolean", &["true", "false"]),
    ("oid", &["0", "4294967295"]),
];

const TEXTS: &[Values] = &[
    (
        "text",
        &[
            "''",
            "' '",
            "'NULL'",
            "'null'",
            r"'\N'",
            r"'\.'",
            r"E'a\tb\nc\rd\\e\bf\fg\vh'",
            "'\"'",
            "''''",
            "'{}'",
            "'[1]'",
            "'ß 漢 🦀 \u{200d}\u{feff}'",
        ],
    ),
    ("text", &["(select string_agg(chr(n), '') from generate_series(1, 3000) n)", "repeat('long ', 100000)", "chr(1114111)"]),
    ("varchar(5)", &["'abcde'", "''", "'é漢🦀'"]),
    ("char(5)", &["'ab'", "'abcde'", "''"]),
    ("name", &["'a name'", "'\"Q\"'"]),
    ("\"char\"", &["'x'", "''", "'\\'"]),
    ("bytea", &["''", r"'\x00'", "(select string_agg(set_byte('\\x00'::bytea, 0, n), '') from generate_series(0, 255) n)"]),
    ("uuid", &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    ("bit(8)", &["B'10110001'"]),
    ("bit varying", &["B''", "B'101'"]),
    ("tsvector", &[r"'a:1A b:2,3C ''it''''s'' \\ ''q x'''", "''"]),
    ("tsquery", &["'a & (b | !c) <-> d:*'"]),
    ("pg_lsn", &["'16/B374D848'", "'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
    ("txid_snapshot", &["'10:20:10,14,15'"]),
    ("regclass", &["'pg_class'"]),
];

const TIMES: &[Values] = &[
    ("date", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'0001-01-01'", "'2024-02-29'"]),
    (
        "timestamp",
        &["'infinity'", "'-infinity'", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'", "'2024-02-29 12:00:00.1'"],
    ),
    (
        "timestamptz",
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'1900-01-01 00:00:00+01:30'",
        ],
    ),
    ("timestamp(0)", &["'2024-02-29 12:00:01'"]),
    ("time", &["'00:00:00'", "'24:00:00'", "'23:59:59.999999'"]),
    ("timetz", &["'00:00:00+15:59'", "'24:00:00-15:59'", "'12:00:00.5+01'"]),
    (
        "interval",
        &["'178000000 years'", "'-178000000 years'", "'1 year -2 months +3 days -04:05:06.789'", "'0'", "'-00:00:00.000001'"],
    ),
    ("interval day to second", &["'3 days 04:05:06'"]),
];

const DOCUMENTS: &[Values] = &[
    (
        "json",
        &[
            "'null'",
            r#"'{"a" : 1.0e5,"a":2, "b":[ 1 ,null]}'"#,
            r#"E'{"x":\n\t[1,\r\n2]}'"#,
            r#"'"\u0041 \ud83e\udd80 \u0000"'"#,
            "'1e400'",
            "'-0.0'",
            "'true'",
            "'[]'",
            "'\"\"'",
        ],
    ),
    (
        "jsonb",
        &[
            "'null'",
            r#"'{"b":1,"a":{"c":[1,2.50,-0.0,1e-7]}}'"#,
            "'123456789012345678901234567890.123456789'",
            r#"'"q\"\\\u0001ß"'"#,
            "'false'",
            "'[[]]'",
        ],
    ),
    ("xml", &["'<a b=\"c\">&lt;é</a>'", "''"]),
    ("hstore", &[r#"'"a"=>"1", "b"=>NULL, "q\"\\"=>"x, y=>z"'"#, "''"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
];

const LISTS: &[Values] = &[
    ("int[]", &["'{}'", "'{1,NULL,-3}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "'[2:3][-1:0]={{1,2},{3,4}}'", "'{{{{{{1}}}}}}'"]),
    ("bigint[]", &["'{9223372036854775807,-9223372036854775808}'"]),
    ("numeric[]", &["array['NaN', repeat('9', 500), '1.10', '-0.00', 'Infinity']::numeric[]"]),
    ("float8[]", &["'{NaN,-0,Infinity,1e-300,0.1}'"]),
    ("boolean[]", &["'{t,f,NULL}'"]),
    (
        "text[]",
        &[
            r#"'{"",NULL,"NULL","null","a,b","q\"uote","back\\slash","{curly}"," sp ace "}'"#,
            r"array[E'tab\tnew\nline', '漢', '\N']",
            "'{{a,b},{NULL,\"\"}}'",
            "'[5:6]={a,\"b c\"}'",
        ],
    ),
    ("varchar(3)[]", &["'{abc,\"\"}'"]),
    ("bytea[]", &[r"array['\x00ff'::bytea, null, '']"]),
    ("date[]", &["'{infinity,4713-01-01 BC,NULL}'"]),
    ("timestamptz[]", &["'{\"294276-12-31 23:59:59.999999+00\",-infinity}'"]),
    ("uuid[]", &["array['00000000-0000-0000-0000-000000000000']::uuid[]"]),
    ("json[]", &[r#"array['{"a" : [1]}', '[1,[2]]', 'null', '"t\u0041"', ' 7', null, 'true']::json[]"#, "'{}'"]),
    (
        "jsonb[]",
        &[r#"array['{"a": "b,c"}', '[]', 'null', '"x"', '1.10']::jsonb[]"#, r#"array[array['{"a":1}'], array['[2]']]::jsonb[]"#],
    ),
    ("inet[]", &["'{10.0.0.1/8,::1}'"]),
    ("box[]", &["'{(1,1),(0,0);(2,2),(1,1)}'"]),
    ("int4range[]", &[r#"'{"[1,5)",empty,NULL}'"#]),
    ("mood[]", &["'{glad,\"very sad\",NULL}'"]),
    ("pair[]", &[r#"array[row(1, 'a,"b"')::pair, null, row(null, '')::pair]"#]),
];

const OWN: &[Values] = &[
    ("mood", &["'glad'", "'very sad'"]),
    ("positive", &["1", "9007199254740993"]),
    ("words", &["'{a,\"b c\"}'", "'{}'"]),
    ("document", &[r#"'{"a":1}'"#, "'\"x\"'"]),
    ("pair", &[r#"row(1, 'q"\,(x)')"#, "row(null, null)", "row(2, '')"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'", "'[7,)'"]),
    ("numrange", &["'[1.10,2.20]'", "'(,1e10)'"]),
    ("tstzrange", &["'[2024-01-01 00:00:00+00,infinity)'", "'(-infinity,2024-01-01 00:00:00+00]'"]),
    ("int4multirange", &["'{[1,3),[5,9)}'", "'{}'"]),
    ("nummultirange", &["'{(,1.5],[2.5,)}'"]),
    ("inet", &["'10.0.0.1'", "'192.168.0.1/24'", "'::ffff:1.2.3.4/96'"]),
    ("cidr", &["'10.0.0.0/8'", "'2001:db8::/32'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("point", &["'(1.5,-0)'", "'(Infinity,NaN)'"]),
    ("line", &["'{1,-1,0}'"]),
    ("lseg", &["'[(0,0),(1,1)]'"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1),(2,0))'"]),
    ("polygon", &["'((0,0),(1,1),(2,0))'"]),
    ("circle", &["'<(0,0),1.5>'"]),
];

const TYPES: &str = "create type mood as enum ('glad', 'very sad'); create type pair as (a int, b text); \
     create domain positive as bigint check (value > 0); create domain words as text[]; create domain document as jsonb;";

/// Goal: what comes is what was there. Method: of each type its edges, as rows that were there, as inserted ones, and in place of others.
#[test]
fn every_type_comes_as_it_is() {
    let server = Server::shared();
    let (source, target) = (server.database().unwrap(), server.database().unwrap());
    for database in [&source, &target] {
        database.sql(TYPES).unwrap();
        // It may not be on the machine.
        let _ = database.sql("create extension hstore");
    }
    let groups =
        [("numbers", NUMBERS), ("texts", TEXTS), ("times", TIMES), ("documents", DOCUMENTS), ("lists", LISTS), ("own", OWN)];
    let made = groups.map(|(table, types)| Group::make(&source, table, types));
    let copy = Copy::new(source.clone(), target, groups.map(|(table, _)| table.to_owned()).to_vec());
    made.iter().for_each(|group| group.insert(&source, 0));
    let mut running = copy.start();
    copy.wait_until_equal(&mut running, &source, "rows that were there");
    made.iter().for_each(|group| group.insert(&source, 1000));
    copy.wait_until_equal(&mut running, &source, "rows that were inserted");
    made.iter().for_each(|group| group.rotate(&source));
    copy.wait_until_equal(&mut running, &source, "rows that were updated");
    running.signal("TERM");
    assert!(running.wait().status.success());
}

/// A table with a column for each type.
struct Group {
    table: &'static str,
    types: Vec<Values>,
    rows: usize,
}

impl Group {
    /// Types that this server may lack are left out then.
    fn make(source: &Database, table: &'static str, types: &[Values]) -> Self {
        let is_there = |(name, values): &&Values| {
            let made = source.sql(&format!("select cast({} as {name})", values[0]));
            assert!(made.is_ok() || matches!(*name, "xml" | "hstore"), "{name}: {made:?}");
            made.is_ok()
        };
        let types: Vec<Values> = types.iter().filter(is_there).copied().collect();
        let columns = types.iter().enumerate().map(|(at, (name, _))| format!("c{at} {name}"));
        source.sql(&format!("create table {table} (id int primary key, {})", columns.collect::<Vec<_>>().join(", "))).unwrap();
        let rows = types.iter().map(|(_, values)| values.len()).max().unwrap_or_default() + 1;
        Group { table, types, rows }
    }

    fn value(&self, column: usize, row: usize) -> String {
        let (name, values) = self.types[column];
        // One more than the longest has: nulls.
        values.get(row).map_or_else(|| "null".to_owned(), |value| format!("cast({value} as {name})"))
    }

    fn insert(&self, source: &Database, from: usize) {
        for row in 0..self.rows {
            let values: Vec<String> = (0..self.types.len()).map(|column| self.value(column, row)).collect();
            source.sql(&format!("insert into {} values ({}, {})", self.table, from + row, values.join(", "))).unwrap();
        }
    }

    /// Each row gets the values of the next one.
    fn rotate(&self, source: &Database) {
        for row in 0..self.rows {
            let set = (0..self.types.len()).map(|column| format!("c{column} = {}", self.value(column, (row + 1) % self.rows)));
            source.sql(&format!("update {} set {} where id = {row}", self.table, set.collect::<Vec<_>>().join(", "))).unwrap();
        }
    }
}
