use super::*;

const AT: Position = Position { partition: 0, at: 0, within: 0 };

#[track_caller]
fn parsed(envelope: &Envelope, line: &str) -> Change {
    envelope.check().unwrap();
    envelope.parse(Bytes::copy_from_slice(line.as_bytes()), AT).unwrap()
}

fn error(envelope: &Envelope, line: &str) -> String {
    envelope.parse(Bytes::copy_from_slice(line.as_bytes()), AT).expect_err(line)
}

#[track_caller]
fn check_refused(envelope: &Envelope, line: &str, why: &str) {
    let error = error(envelope, line);
    assert!(error.contains(why), "{error}");
}

#[test]
fn a_whole_envelope() {
    let change = parsed(
        &Envelope::default(),
        r#"{"id":"c\"1","table":"orders","op":"u","key":17,"ts":1700000000001,"before":null,"after":{"a":"\u00e9"},"more":[1]}"#,
    );
    assert_eq!((change.id(), change.key(), change.table(), change.time_ms()), ("c\"1", "17", "orders", 1_700_000_000_001));
    assert_eq!(change.operation(), Operation::Update);
    assert_eq!(change.after().str("a").as_deref(), Some("é"));
    assert!(!change.before().is_present());
}

#[test]
fn what_may_be_missing_may_be_missing() {
    let change = parsed(&Envelope::default(), r#"{"id":5,"op":"insert"}"#);
    assert_eq!((change.id(), change.key(), change.table(), change.time_ms()), ("5", "5", "", 0));
}

#[test]
fn time_as_text() {
    let change = parsed(&Envelope::default(), r#"{"id":5,"op":"insert","ts":"2023-11-14T22:13:20Z"}"#);
    assert_eq!(change.time_ms(), 1_700_000_000_000);
}

#[test]
fn mistakes_are_named_with_their_column() {
    let usual = Envelope::default();
    check_refused(&usual, r#"{"op":"insert"}"#, "\"id\" is missing; every change needs an id");
    check_refused(&usual, r#"{"id":null,"op":"insert"}"#, "\"id\" is null");
    check_refused(&usual, r#"{"id":{},"op":"insert"}"#, "\"id\" is {}; it must be a string or a number (column 7)");
    check_refused(&usual, r#"{"id":1,"op":"upsert"}"#, "\"op\" is \"upsert\"; it must be \"insert\", \"update\"");
    check_refused(&usual, r#"{"id":1,"op":"insert","after":[1]}"#, "\"after\" is [1]; it must be an object or null (column 31)");
    check_refused(&usual, r#"{"id":1,"op":"insert","ts":"noon"}"#, "\"ts\" is \"noon\"");
    check_refused(&usual, r#"{"id":1,"op":"insert","table":5}"#, "\"table\" is 5; it must be a string");
    check_refused(&usual, r#"{"id":1,"op":"ins"#, "EOF while parsing a string (column 17)");
    check_refused(&usual, r#"{"id":1,"id":2,"op":"c"}"#, "\"id\" stands twice");
    check_refused(&usual, r#"{"id":1,"op":"c"} {}"#, "trailing characters");
    check_refused(&usual, "[1]", "expected an object");
    let broken = usual.parse(Bytes::from_static(b"{\"id\":\"\xff\"}"), AT).unwrap_err();
    assert!(broken.contains("not UTF-8 from byte 7 on"), "{broken}");
}

fn events() -> Envelope {
    Envelope::mapping()
        .id("meta.id")
        .table("type")
        .key("payload.order.id")
        .op("kind", [("created", Operation::Insert), ("gone", Operation::Delete)])
        .time("meta.at")
        .after("payload")
}

#[test]
fn nested_fields_are_found_by_their_paths() {
    let change = parsed(
        &events(),
        r#"{"type":"orders","kind":"created","meta":{"x":{"id":0},"id":"e1","at":5},"payload":{"order":{"id":"o\u0031"},"n":2}}"#,
    );
    assert_eq!((change.id(), change.table(), change.key(), change.time_ms()), ("e1", "orders", "o1", 5));
    assert_eq!(change.after().parse("n"), Some(2));
    let gone = parsed(&events(), r#"{"type":"t","kind":"gone","meta":{"id":2,"at":5},"payload":{"order":{"id":1}}}"#);
    assert!(gone.before().is_present() && !gone.after().is_present());
}

#[test]
fn what_was_named_must_be_there() {
    let line = |meta: &str, kind: &str| format!(r#"{{"type":"t","kind":"{kind}","meta":{meta},"payload":{{"order":{{}}}}}}"#);
    check_refused(&events(), &line(r#"{"at":1}"#, "created"), "\"meta.id\" is missing");
    check_refused(&events(), &line("7", "created"), "\"meta.id\" is missing");
    check_refused(&events(), &line(r#"{"id":1,"at":1}"#, "created"), "\"payload.order.id\" is missing; every change needs a key");
    let line = r#"{"type":"t","kind":"made","meta":{"id":1,"at":1},"payload":{"order":{"id":1}}}"#;
    check_refused(&events(), line, "\"kind\" is \"made\"; it must be \"created\" or \"gone\" (column 20)");
    let line = line.replace("made", "gone").replace("\"at\":1", "\"no\":1");
    check_refused(&events(), &line, "\"meta.at\" is missing; it was named as the time");
}

#[test]
fn plain_rows_need_no_envelope() {
    let orders = Envelope::rows("orders").id("order_id");
    let change = parsed(&orders, " {\"order_id\":7,\"a.b\":1} ");
    assert_eq!((change.id(), change.key(), change.operation()), ("7", "7", Operation::Insert));
    assert_eq!(change.row().raw_json(), Some("{\"order_id\":7,\"a.b\":1}"));
    let composite = Envelope::rows("lines").id(r"a\.b").keys(["order_id", r"a\.b"]);
    assert_eq!(parsed(&composite, "{\"order_id\":\"7\",\"a.b\":1}").key(), "[\"7\",1]");
}

#[test]
fn an_envelope_that_cannot_work_says_so_at_start() {
    assert!(Envelope::mapping().table("t").check().unwrap_err().contains("names no id"));
    assert!(Envelope::debezium().time("at").check().unwrap_err().contains("leave it out"));
    let many = (0..20).fold(Envelope::mapping(), |envelope, n| envelope.id(&format!("f{n}")));
    assert!(many.check().unwrap_err().contains("can name 16 fields"));
}

const POSTGRES: &str = r#"{"version":"3.0","connector":"postgresql","name":"shop","ts_ms":1700000000001,"snapshot":"false","db":"inv","sequence":"[null,\"24\"]","schema":"public","table":"orders","txId":555,"lsn":24023128,"xmin":null}"#;

fn value(op: &str, source: &str) -> String {
    let (before, after) = match op {
        "d" => (r#"{"id":7,"n":1}"#, "null"),
        _ => ("null", r#"{"id":7,"n":1}"#),
    };
    format!(r#"{{"before":{before},"after":{after},"source":{source},"op":"{op}","ts_ms":1700000000142,"transaction":null}}"#)
}

#[test]
fn debezium_with_and_without_its_wrappers() {
    let plain = value("c", POSTGRES);
    let wrapped = format!(r#"{{"schema":{{"type":"struct","fields":[{{"field":"before"}}]}},"payload":{plain}}}"#);
    let key = r#"{"schema":{"type":"struct"},"payload":{"id":7}}"#;
    let lines = [
        plain.clone(),
        wrapped.clone(),
        format!(r#"{{"key":{{"id":7}},"value":{plain}}}"#),
        format!(r#"{{"key":{key},"value":{wrapped}}}"#),
        format!(r#"{{"key":7,"value":{wrapped}}}"#),
    ];
    for (envelope, lines) in
        [(Envelope::debezium().key("id"), &lines[..]), (Envelope::debezium(), &lines[2..]), (Envelope::auto(), &lines[2..])]
    {
        for line in lines {
            let change = parsed(&envelope, line);
            assert_eq!((change.table(), change.key(), change.time_ms()), ("orders", "7", 1_700_000_000_001), "{line}");
            assert_eq!(change.id(), "postgresql/shop/24023128/inv.public.orders/insert/7", "{line}");
            assert_eq!((change.operation(), change.after().parse("n")), (Operation::Insert, Some(1)));
        }
    }
}

#[test]
fn debezium_deletes_snapshots_and_composite_keys() {
    let deleted = parsed(&Envelope::debezium().key("id"), &value("d", POSTGRES));
    assert_eq!((deleted.operation(), deleted.before().parse("n")), (Operation::Delete, Some(1)));
    assert!(!deleted.after().is_present());
    let read = format!(r#"{{"key":{{"a":"x","b":2}},"value":{}}}"#, value("r", POSTGRES));
    let read = parsed(&Envelope::debezium(), &read);
    assert_eq!((read.operation(), read.key()), (Operation::Read, r#"["x",2]"#));
    assert_eq!(read.id(), r#"postgresql/shop/24023128/inv.public.orders/read/["x",2]"#);
}

#[test]
fn debezium_ids_by_connector() {
    let id = |line: &str| parsed(&Envelope::debezium(), line).id().to_owned();
    let mysql = r#"{"connector":"mysql","name":"m","ts_ms":1,"db":"d","table":"t","server_id":2,"gtid":null,"file":"bin.3","pos":4696,"row":0}"#;
    assert_eq!(id(&value("u", mysql)), "mysql/m/bin.3/4696/0/d..t/update/");
    let server = r#"{"connector":"sqlserver","name":"s","ts_ms":1,"db":"d","schema":"dbo","table":"t","change_lsn":"00:05","commit_lsn":"00:07","event_serial_no":"1"}"#;
    assert_eq!(id(&value("d", server)), "sqlserver/s/00:07/00:05/1/d.dbo.t/delete/");
    let vitess = r#"{"connector":"vitess","name":"v","table":"t","vgtid":"[1]"}"#;
    assert_eq!(parsed(&Envelope::debezium().id("source.vgtid"), &value("c", vitess)).id(), "[1]");
    check_refused(&Envelope::debezium(), &value("c", vitess), "of the connector \"vitess\"");
}

#[test]
fn debezium_lines_that_cannot_be_changes_are_refused_with_the_reason() {
    let debezium = Envelope::debezium();
    check_refused(&debezium, &value("c", POSTGRES), "there is no key");
    check_refused(&debezium, &value("t", POSTGRES), "the table was truncated");
    check_refused(&debezium, &value("m", POSTGRES), "a message in the log");
    check_refused(&debezium, &value("x", POSTGRES), "\"op\" is \"x\"; it must be \"c\"");
    check_refused(&debezium, r#"{"status":"BEGIN","id":"5"}"#, "\"op\" is missing");
    let without = POSTGRES.replace("\"lsn\":24023128", "\"lsn\":null");
    check_refused(&Envelope::debezium().key("id"), &value("c", &without), "\"source.lsn\" is missing or null");
    check_refused(&Envelope::debezium().key("no"), &value("c", POSTGRES), "\"no\" is missing; every change needs a key");
    check_refused(&debezium, r#"{"key":1,"value":"{}"}"#, "\"value\" is \"{}\"; it must be Debezium's envelope");
    let text = r#"{"after":"{\"a\":1}","source":{"connector":"mongodb","name":"m","db":"d","collection":"c"},"op":"c"}"#;
    check_refused(&debezium, text, "as MongoDB's connector writes it");
}

#[test]
fn tombstones_say_nothing() {
    for line in ["null", r#"{"key":{"id":7},"value":null}"#, r#"{"schema":null,"payload":null}"#] {
        for envelope in [Envelope::debezium(), Envelope::auto()] {
            assert_eq!(envelope.read(Bytes::copy_from_slice(line.as_bytes()), AT), Ok(None), "{line}");
        }
        check_refused(&Envelope::debezium(), line, "a tombstone");
    }
}

#[test]
fn auto_looks_at_each_line() {
    let auto = Envelope::auto().key("id");
    assert_eq!(parsed(&auto, r#"{"id":"c1","op":"u","source":{}}"#).id(), "c1");
    assert_eq!(parsed(&auto, &value("u", POSTGRES)).key(), "7");
    check_refused(&auto, r#"{"op":"u"}"#, "\"id\" is missing");
}
