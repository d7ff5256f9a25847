//! Ended input: files, directories, compression, what is broken. What grows is in `tests/follow.rs`.

mod follow;

use std::fs;
use std::io::Write;

use highwater_operators::ingest::{Batch, Read};

use super::*;

/// What one partition gave.
#[derive(Default)]
struct Everything {
    ids: Vec<String>,
    places: Vec<u64>,
    rejected: Vec<String>,
    tokens: Vec<ResumeToken>,
    error: Option<String>,
}

fn read_on(source: &dyn Source, name: &str, from: Option<&ResumeToken>) -> Everything {
    let window = InFlight::new(u64::MAX, u64::MAX);
    let partition = Partition { id: 0, name: name.to_owned() };
    let mut all = Everything::default();
    let mut reader = match source.open(&partition, from, &window) {
        Ok(reader) => reader,
        Err(error) => return Everything { error: Some(error.to_string()), ..all },
    };
    loop {
        let mut batch = Batch::default();
        match reader.read(&mut batch) {
            Ok(Read::Some) => {}
            Ok(Read::Idle(_) | Read::Away(_)) => continue,
            Ok(Read::End) => return all,
            Err(error) => return Everything { error: Some(error.to_string()), ..all },
        }
        all.ids.extend(batch.changes.iter().map(|change| change.id().to_owned()));
        all.places.extend(batch.changes.iter().map(|change| change.position().at));
        all.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
        all.tokens.push(batch.token);
    }
}

/// Reads the one partition of a source.
#[track_caller]
fn read_all(source: &JsonLinesSource, from: Option<(&str, &ResumeToken)>) -> Everything {
    let known: Vec<Known> =
        from.iter().map(|(name, token)| Known { name: (*name).to_owned(), token: Some((*token).clone()) }).collect();
    let bound = source.bind(&known).unwrap().unwrap();
    let partitions = match bound.partitions() {
        Ok(partitions) => partitions,
        Err(error) => return Everything { error: Some(error.to_string()), ..Everything::default() },
    };
    assert!(partitions.len() < 2, "{partitions:?}");
    match partitions.first() {
        None => Everything::default(),
        Some(partition) => read_on(&*bound, &partition.name, from.map(|(_, token)| token)),
    }
}

fn name_of(source: &JsonLinesSource) -> String {
    source.partitions().unwrap().remove(0).name
}

fn lines(range: std::ops::Range<usize>, pad: usize) -> String {
    range.map(|id| format!("{{\"id\":{id},\"op\":\"insert\",\"after\":{{\"pad\":\"{}\"}}}}\n", "x".repeat(pad))).collect()
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|id| id.to_string()).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 0).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn lines_of_any_length_are_read_and_every_token_continues() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    for (n, pad) in [(1, 0), (5000, 100), (7, 300_000), (3, 600_000)] {
        fs::write(&path, lines(0..n, pad)).unwrap();
        let source = JsonLinesSource::file(&path);
        let name = name_of(&source);
        let all = read_all(&source, None);
        assert_eq!((all.ids, all.error), (ids(0..n), None));
        for token in &all.tokens {
            let rest = read_all(&source, Some((&name, token)));
            assert_eq!((&rest.ids[..], rest.error), (&ids(n - rest.ids.len()..n)[..], None));
        }
        assert!(read_all(&source, all.tokens.last().map(|token| (&*name, token))).ids.is_empty());
    }
}

#[test]
fn what_is_compressed_is_read_as_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let text = lines(0..4_000, 400);
    let (one, two) = text.split_at(text.len() / 3);
    fs::write(&path, &text).unwrap();
    let source = JsonLinesSource::file(&path);
    let (name, plain) = (name_of(&source), read_all(&source, None));
    assert!(plain.tokens.len() > 3);
    for (what, bytes) in [
        ("gzip", gzip(&text)),
        ("gzip of two members", [gzip(one), gzip(two)].concat()),
        ("zstd", zstd(&text)),
        ("zstd of two frames", [zstd(one), zstd(two)].concat()),
        (
            "zstd that begins with a frame to be passed over",
            [&[0x51, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7][..], &zstd(&text)].concat(),
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(name_of(&source), name, "{what}");
        let all = read_all(&source, None);
        assert_eq!((&all.ids, &all.places, &all.error), (&plain.ids, &plain.places, &None), "{what}");
        // Tokens of the plain file continue in the compressed one.
        for token in &plain.tokens {
            let rest = read_all(&source, Some((&name, token)));
            assert_eq!((&rest.ids[..], rest.error), (&plain.ids[plain.ids.len() - rest.ids.len()..], None), "{what}");
        }
    }
}

#[test]
fn a_torn_or_damaged_compressed_file_gives_what_stands_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.gz");
    let text: String =
        (0..50_000).map(|n| format!("{{\"id\":{n},\"op\":\"c\",\"key\":\"{:x}\"}}\n", n * 7919 % 65_537)).collect();
    for whole in [gzip(&text), zstd(&text)] {
        for torn in [whole.len() / 2, whole.len() - 3] {
            fs::write(&path, &whole[..torn]).unwrap();
            let all = read_all(&JsonLinesSource::file(&path), None);
            assert!(all.ids.len() > 10_000 && all.ids == ids(0..all.ids.len()), "{}", all.ids.len());
            let error = all.error.unwrap();
            assert!(error.contains("in.gz") && error.contains("ends in the middle of its compressed content"), "{error}");
            assert!(error.contains(&format!("byte {torn} of the file")), "{error} {torn}");
        }
        let mut damaged = whole.clone();
        let middle = whole.len() / 2;
        damaged[middle..middle + 40].fill(0xa5);
        fs::write(&path, &damaged).unwrap();
        let error = read_all(&JsonLinesSource::file(&path), None).error.unwrap();
        assert!(error.contains("is damaged"), "{error}");
    }
    fs::write(&path, &gzip(&text)[..12]).unwrap();
    let empty = read_all(&JsonLinesSource::file(&path), None);
    assert!(empty.error.as_ref().is_some_and(|error| error.contains("ends in the middle")), "{:?}", empty.error);
}

#[test]
fn the_last_line_needs_no_newline_and_empty_lines_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, "{\"id\":1,\"op\":\"c\"}\r\n\n{\"id\":2,\"op\":\"c\"}").unwrap();
    let source = JsonLinesSource::file(&path);
    let all = read_all(&source, None);
    assert_eq!(all.ids, ["1", "2"]);
    // It grew meanwhile, and is still the same.
    fs::write(&path, "{\"id\":1,\"op\":\"c\"}\r\n\n{\"id\":2,\"op\":\"c\"}\n{\"id\":3,\"op\":\"c\"}\n").unwrap();
    let more = read_all(&source, Some((&name_of(&source), all.tokens.last().unwrap())));
    assert_eq!((more.ids, more.error), (vec!["3".to_owned()], None));
}

#[test]
fn broken_lines_are_rejected_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    let text = b"{\"id\":1,\"op\":\"c\"}\n{\"id\":\n{\"id\":2,\"op\":\"c\"}\n{\"op\":\"c\"}\n{\"id\":\"\xff\",\"op\":\"c\"}\n[1]\n{\"id\":3,\"op";
    fs::write(&path, text).unwrap();
    let all = read_all(&JsonLinesSource::file(&path), None);
    assert_eq!(all.ids, ["1", "2"]);
    let expected = [
        ("in.jsonl, line 2 (byte 18): ", ""),
        ("in.jsonl, line 4 (byte 43): ", "\"id\" is missing"),
        ("in.jsonl, line 5 (byte 54): ", "not UTF-8 from byte 7 on"),
        ("in.jsonl, line 6 (byte 74): ", ""),
        ("in.jsonl, line 7 (byte 78): ", "; the line has no newline: it may have been cut short"),
    ];
    for (rejected, (place, why)) in all.rejected.iter().zip(expected) {
        assert!(rejected.contains(place) && rejected.contains(why), "{rejected} / {place}{why}");
    }
    assert_eq!(all.rejected.len(), 5);
}

#[test]
fn a_source_that_is_told_to_stops_before_a_broken_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, "{\"id\":1,\"op\":\"c\"}\n{\"id\":2,\"op\":\"c\"}\nnothing\n{\"id\":3,\"op\":\"c\"}\n").unwrap();
    let source = JsonLinesSource::file(&path).on_reject(OnReject::Stop);
    let all = read_all(&source, None);
    assert_eq!((all.ids, all.tokens[0].order), (vec!["1".to_owned(), "2".to_owned()], 36));
    let error = all.error.unwrap();
    assert!(error.contains("in.jsonl, line 3 (byte 36): ") && error.contains("OnReject::Park"), "{error}");
    // The next run meets it at once; one that parks goes on behind it.
    let name = name_of(&source);
    assert_eq!(read_all(&source, Some((&name, &all.tokens[0]))).error, Some(error));
    let rest = read_all(&source.on_reject(OnReject::Park), Some((&name, &all.tokens[0])));
    assert_eq!((rest.ids, rest.rejected.len()), (vec!["3".to_owned()], 1));
}

#[test]
fn a_line_beyond_the_bound_is_rejected_and_the_next_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    for (max, length, message) in [
        (1 << 20, 5_000_000, "longer than 1 MiB"),
        (1000, 1001, "longer than 1000 bytes"),
        (1 << 20, 1 << 20, "longer than 1 MiB"),
    ] {
        fs::write(&path, [lines(0..2, 1), lines(2..3, length), lines(3..30, 1), lines(30..31, length)].concat()).unwrap();
        let source = JsonLinesSource::file(&path).line_max(max);
        let all = read_all(&source, None);
        assert_eq!(all.ids, [ids(0..2), ids(3..30)].concat(), "{max}");
        assert!(
            all.rejected.len() == 2 && all.rejected[0].contains(message) && all.rejected[0].contains("line 3 (byte "),
            "{:?}",
            all.rejected
        );
        let name = name_of(&source);
        for token in &all.tokens {
            let rest = read_all(&source, Some((&name, token)));
            assert_eq!((rest.error, rest.ids.len() <= 29), (None, true), "{max}");
        }
    }
}

#[test]
fn a_file_that_was_cut_or_changed_or_replaced_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, lines(0..3, 5)).unwrap();
    let source = JsonLinesSource::file(&path);
    let name = name_of(&source);
    let end = read_all(&source, None).tokens.pop().unwrap();
    let refusal = || read_all(&source, Some((&name, &end))).error.unwrap();
    for (text, part) in [
        (lines(0..2, 5), "was cut short"),
        (String::new(), "was cut short"),
        (lines(0..4, 5).replace("\"id\":2", "\"id\":7"), "was changed before byte"),
        (lines(0..1, 5) + &lines(5..9, 5), "was changed before byte"),
        (lines(4..9, 5), "which no file of"),
    ] {
        fs::write(&path, text).unwrap();
        let error = refusal();
        assert!(error.contains(part) && error.contains("new data directory"), "{error} / {part}");
    }
    let error = refusal();
    assert!(error.contains(&name) && error.contains(&name_of(&source)) && error.contains("in.jsonl"), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(refusal().contains("check the path"));
    fs::create_dir(&path).unwrap();
    assert!(refusal().contains("JsonLines::dir"));
}

/// Names of partitions and ids in them, by partition.
fn contents(source: &JsonLinesSource, known: &[Known]) -> Vec<(String, Vec<String>)> {
    let bound = source.bind(known).unwrap().unwrap();
    let partitions = bound.partitions().unwrap();
    partitions.into_iter().map(|partition| (partition.name.clone(), read_on(&*bound, &partition.name, None).ids)).collect()
}

#[test]
fn a_directory_holds_contents_not_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let source = JsonLinesSource::directory(folder.path()).matching("app.log*");
    let error = source.partitions().unwrap_err().to_string();
    assert!(error.contains("holds no file to read") && error.contains("app.log*"), "{error}");
    fs::write(at("app.log"), lines(200..300, 5)).unwrap();
    fs::write(at("app.log.1"), lines(100..200, 5)).unwrap();
    fs::write(at("app.log.2.gz"), gzip(&lines(0..100, 5))).unwrap();
    // Copies: whole, compressed, and one that has only begun.
    fs::write(at("app.log.1.gz"), gzip(&lines(100..200, 5))).unwrap();
    fs::write(at("app.log.1.zst"), zstd(&lines(100..150, 5))).unwrap();
    fs::write(at("app.log.tmp"), lines(200..220, 5)).unwrap();
    fs::write(at("app.log.empty"), "").unwrap();
    fs::write(at("other"), lines(0..5, 5)).unwrap();
    fs::create_dir(at("app.log.d")).unwrap();
    let mut found = contents(&source, &[]);
    found.sort_by_key(|(_, ids)| ids[0].parse::<u32>().unwrap());
    assert_eq!(found.iter().map(|(_, ids)| ids.clone()).collect::<Vec<_>>(), [ids(0..100), ids(100..200), ids(200..300)]);
    let error = source.clone().partitions_max(2).partitions().unwrap_err().to_string();
    assert!(error.contains("holds 3 files, more than the 2"), "{error}");
}

#[test]
fn files_with_one_first_line_are_partitions_of_their_own_and_keep_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let header = "{\"id\":0,\"op\":\"c\",\"table\":\"header\"}\n";
    let long = lines(1..50, 5);
    fs::write(at("a"), format!("{header}{}", lines(1..9, 5))).unwrap();
    fs::write(at("b"), format!("{header}{}", lines(10..19, 5))).unwrap();
    // These part only behind the lines that each partition is known by.
    fs::write(at("c"), format!("{header}{long}{}", lines(60..70, 5))).unwrap();
    fs::write(at("d.gz"), gzip(&format!("{header}{long}{}", lines(70..90, 5)))).unwrap();
    let source = JsonLinesSource::directory(folder.path());
    let found = contents(&source, &[]);
    let mut lengths: Vec<usize> = found.iter().map(|(_, ids)| ids.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [10, 60, 70], "a begins like c, so it is taken for a copy of it");
    // Later runs give the same names, in whatever order they meet the files.
    let bound = source.bind(&[]).unwrap().unwrap();
    let known: Vec<Known> = bound
        .partitions()
        .unwrap()
        .into_iter()
        .map(|partition| {
            let token = read_on(&*bound, &partition.name, None).tokens.pop();
            Known { name: partition.name, token }
        })
        .collect();
    for (old, new) in [("a", "z"), ("b", "y"), ("c", "x"), ("d.gz", "w.gz")] {
        fs::rename(at(old), at(new)).unwrap();
    }
    fs::write(at("new"), format!("{header}{}", lines(100..120, 5))).unwrap();
    let again = contents(&source, &known);
    for (name, ids) in &found {
        assert!(again.contains(&(name.clone(), ids.clone())), "{name}");
    }
    assert_eq!(again.len(), found.len() + 1);
}

#[test]
fn what_is_no_file_is_refused_with_a_way_out() {
    let error = JsonLinesSource::file("/dev/null").partitions().unwrap_err().to_string();
    assert!(error.contains("JsonLines::stdin()"), "{error}");
    let error = JsonLinesSource::directory("/nowhere/at/all").partitions().unwrap_err().to_string();
    assert!(error.contains("cannot read the directory /nowhere/at/all") && error.contains("check the path"), "{error}");
    assert!(!JsonLinesSource::stdin().can_be_read_again());
}

#[test]
fn an_envelope_of_ones_own_parses_the_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, "{\"number\":\"one\"}\n{\"number\":\"two\"}\n").unwrap();
    let source = JsonLinesSource::file(&path);
    let error = source.clone().envelope(Envelope::rows("numbers")).partitions().unwrap_err().to_string();
    assert!(error.contains(".id("), "{error}");
    assert_eq!(read_all(&source.envelope(Envelope::rows("numbers").id("number")), None).ids, ["one", "two"]);
}

#[test]
fn a_file_that_is_cut_while_it_is_read_stops_the_run_with_both_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.jsonl");
    fs::write(&path, lines(0..20_000, 100)).unwrap();
    let source = JsonLinesSource::file(&path);
    let bound = source.bind(&[]).unwrap().unwrap();
    let partition = Partition { id: 0, name: bound.partitions().unwrap()[0].name.clone() };
    let mut reader = bound.open(&partition, None, &InFlight::new(u64::MAX, u64::MAX)).unwrap();
    assert_eq!(reader.read(&mut Batch::default()).unwrap(), Read::Some);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1_000).unwrap();
    let error = loop {
        match reader.read(&mut Batch::default()) {
            Ok(Read::End) => panic!("the cut was not seen"),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("in.jsonl was cut to 1000 bytes while it was read, and byte "), "{error}");
}
