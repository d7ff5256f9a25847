//! Writes the inputs that fuzzing begins with, one folder per target: `seeds FOLDER`. They are made here so that they need not be
//! kept, and are the same each time.

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const ROWS: [&str; 6] = [
    r#"{"status":"paid","amount":12.5,"note":null,"list":[1,{"a":"]}"}],"n":{"m":{}}}"#,
    r#"{ "a\n\u00e9" : "x\\\"y" ,	"b" : -1e-3 , "b":true}"#,
    r#"{"":"","🦀":"🦀","\ud83e\udd80":false}"#,
    "{}",
    "[1]",
    r#"{"a":{"#,
];

const SOURCES: [&str; 3] = [
    r#"{"version":"3.0","connector":"postgresql","name":"s","ts_ms":17,"snapshot":"false","db":"d","schema":"public","table":"t","txId":5,"lsn":24}"#,
    r#"{"connector":"mysql","name":"s","ts_ms":17,"db":"d","table":"t","gtid":null,"file":"bin.3","pos":46,"row":0}"#,
    r#"{"connector":"sqlserver","name":"s","db":"d","schema":"dbo","table":"t","change_lsn":null,"commit_lsn":"00:07","event_serial_no":"1"}"#,
];

fn envelopes() -> Vec<Vec<u8>> {
    let mut lines: Vec<(u8, String)> = vec![
        (0, r#"{"id":"c1","table":"t","op":"update","key":7,"ts":17,"before":null,"after":{"a":"\u00e9"}}"#.to_owned()),
        (0, r#"{"id":5,"op":"c","ts":"2023-11-14T22:13:20Z"}"#.to_owned()),
        (1, r#"{"type":"t","kind":"gone","meta":{"id":"e","at":5},"payload":{"a":1,"b":{"c":"x"}}}"#.to_owned()),
        (2, r#"{"id":"7","status":"paid","list":[{}]}"#.to_owned()),
        (3, r#"{"key":{"id":7},"value":null}"#.to_owned()),
        (3, "null".to_owned()),
    ];
    for source in SOURCES {
        for op in ["c", "u", "d", "r", "t"] {
            let value = format!(r#"{{"before":{{"id":1,"n":2}},"after":null,"source":{source},"op":"{op}","ts_ms":18}}"#);
            lines.push((4, value.clone()));
            lines.push((5, format!(r#"{{"schema":{{"type":"struct"}},"payload":{value}}}"#)));
            lines.push((3, format!(r#"{{"key":{{"schema":{{}},"payload":{{"id":1,"n":2}}}},"value":{value}}}"#)));
        }
    }
    lines.into_iter().map(|(envelope, line)| [&[envelope], line.as_bytes()].concat()).collect()
}

fn journals() -> Vec<Vec<u8>> {
    let mut dice = SmallRng::seed_from_u64(1);
    let mut seeds: Vec<Vec<u8>> = (0..60)
        .map(|n| vec![2, dice.random(), dice.random_range(0..8), if n % 2 == 0 { 0 } else { 1 << dice.random_range(0..8) }])
        .collect();
    // An empty group, an action, a generation; then a record of a parked change as the store would encode it.
    seeds.push(vec![3, 7, 0, 2, 0, 0, 0, 0, 0, 0, 4, 0, 1, 1, 1, b'a', 4, 0, 0, 9, 9, 9]);
    let mut record = vec![4, 1, 4];
    record.extend_from_slice(b"mail\0\x03503\x03\x01\0\0\0\0\0\0\0\0");
    seeds.push(record);
    seeds.push(vec![0]);
    seeds.push(b"\x01garbage".to_vec());
    seeds
}

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).expect("usage: seeds FOLDER");
    let rows = ROWS.iter().map(|row| row.as_bytes().to_vec()).collect();
    let tables = [
        "id,name\n1,\"a, b\"\n2,\n",
        "k,op,at\r\n\"x\n\"\"y\",insert,5\r\n\r\nz,delete,2023-11-14T22:13:20Z",
        "a\n\"open\n1\n",
        "\u{feff}a,b\n\u{feff},\n",
        "a,a\n1,2\n",
        "a;b\n1;2;3\n",
    ];
    let tables = tables.iter().map(|table| table.as_bytes().to_vec()).collect();
    let targets: [(&str, Vec<Vec<u8>>); 4] = [("row", rows), ("envelope", envelopes()), ("csv", tables), ("journal", journals())];
    for (target, seeds) in targets {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
