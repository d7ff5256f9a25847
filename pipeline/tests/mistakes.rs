//! Mistakes with the state of a pipeline, and what it makes of them: it goes on where that is safe, and else refuses in a sentence that
//! names the file and says what one can do.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater::operators::checkpoint::embedded::EmbeddedStore;
use highwater::operators::checkpoint::store::{CheckpointStore, Group, Save};
use highwater::prelude::*;
use highwater::run::Build;
use highwater::settings::Settings;
use support::books;
use support::input::{Input, Item, Script};
use support::record::{Record, Recorder};
use tempfile::TempDir;

/// A pipeline with state that has read the first of its changes.
struct Half {
    folder: TempDir,
    record: Record,
    settings: Settings,
}

const FIRST: u64 = 300;
const ALL: u64 = 500;

fn pipeline(record: &Record, count: u64) -> Build {
    let (record, input) =
        (record.clone(), Arc::new(Input::of((0..count).map(|n| Item::good(format!("c{n}"), format!("k{}", n % 20))))));
    support::build(move |flow| {
        flow.source(Script { input: input.clone(), seed: 2 })
            .dedup(Dedup::latest(10_000))
            .fan_out([action("act", Recorder { name: "act", record: record.clone() })])
            .checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    })
}

impl Half {
    fn done() -> Self {
        let (folder, record) = (support::folder(), Record::default());
        let settings = support::settings(folder.path().join("data"), 2);
        support::run(&settings, &pipeline(&record, FIRST)).unwrap();
        Half { folder, record, settings }
    }

    fn data(&self) -> &Path {
        self.settings.data.as_deref().unwrap()
    }

    fn journal(&self) -> PathBuf {
        let mut journals: Vec<_> = fs::read_dir(self.data())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-"))
            .collect();
        assert_eq!(journals.len(), 1, "{journals:?}");
        journals.remove(0)
    }

    fn refused(&self) -> String {
        let error = support::run(&self.settings, &pipeline(&self.record, ALL)).expect_err("the run is refused");
        assert_eq!(self.record.calls() as u64, FIRST, "nothing was done");
        error.to_string()
    }

    /// The rest is read, each change is delivered once, and the books balance.
    fn goes_on(&self) {
        let report = support::run(&self.settings, &pipeline(&self.record, ALL)).unwrap();
        let books = &report.actions["act"];
        assert_eq!((books.read, books.delivered, books.in_flight), (ALL, ALL, 0));
        let times: Vec<_> = self.record.times("act").into_iter().collect();
        assert_eq!(times, (0..ALL).map(|at| ((0, at), 1)).collect::<Vec<_>>());
    }
}

fn says(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
}

#[test]
fn a_torn_end_of_the_journal_is_cut_off_and_the_run_goes_on() {
    for torn in [1, 20, 300] {
        let half = Half::done();
        let mut bytes = fs::read(half.journal()).unwrap();
        // What a crash leaves of a write that was not acknowledged: its beginning, and pages that never came.
        let begun = bytes[bytes.len() - 200..].to_vec();
        bytes.extend(begun.into_iter().chain(std::iter::repeat(0)).take(torn));
        fs::write(half.journal(), bytes).unwrap();
        half.goes_on();
    }
}

/// Goal: a byte that fell over anywhere before the last write is refused, by place, and nothing is done; with the byte back it goes on.
#[test]
fn damage_in_the_middle_of_the_journal_is_refused_with_its_place() {
    let half = Half::done();
    let whole = fs::read(half.journal()).unwrap();
    for place in [9, whole.len() / 4, whole.len() / 2] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs::write(half.journal(), &bytes).unwrap();
        let sentence = half.refused();
        let named = half.journal().display().to_string();
        match place {
            9 => says(&sentence, &[&named, "format version", "run the newer program"]),
            _ => {
                says(
                    &sentence,
                    &[&named, "is damaged at offset ", "restore the data directory from a copy, or begin anew in another one"],
                );
                let offset: usize = sentence.split("offset ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
                assert!(offset <= place, "the damaged entry begins at {offset}, the byte stands at {place}");
            }
        }
        assert_eq!(fs::read(half.journal()).unwrap(), bytes, "what is refused is not changed");
    }
    fs::write(half.journal(), whole).unwrap();
    half.goes_on();
}

#[test]
fn the_data_directory_of_another_pipeline_is_refused_naming_both() {
    let half = Half::done();
    let foreign = half.folder.path().join("foreign");
    drop(EmbeddedStore::open(&foreign, "invoices").unwrap());
    let settings = Settings { data: Some(foreign.clone()), ..half.settings.clone() };
    let error = support::run(&settings, &pipeline(&half.record, ALL)).unwrap_err().to_string();
    says(&error, &[&foreign.display().to_string(), "belongs to the pipeline \"invoices\", not to \"test\"", "give each its own"]);
    half.goes_on();
}

/// Goal: a clock that was stepped back between two runs costs nothing. Method: the first run's last save is given an epoch that lies
/// an hour ahead, as if its machine's clock had; then the next run begins before it.
#[test]
fn a_clock_that_was_stepped_back_between_runs_does_no_harm() {
    let half = Half::done();
    let mut store = EmbeddedStore::open(half.data(), "test").unwrap();
    let last = store.restore().unwrap().checkpoint.unwrap();
    let ahead = last.epoch + 3_600_000;
    let state_from = last.state_from.keys().map(|operator| (operator.clone(), 0)).collect();
    let save = Save { number: last.number + 1, epoch: ahead, state: Vec::new(), state_from, ..last };
    store.commit(&Group { save: Some(save), ..Group::default() }).unwrap();
    drop(store);
    half.goes_on();
    let inspection = books::inspect(half.data());
    let after = inspection.checkpoint().unwrap();
    assert!(after.epoch > ahead, "{} is not above {ahead}", after.epoch);
    // And the one after that, at once.
    half.goes_on();
}

/// Goal: a journal that vanished, or was renamed, is not taken for a new beginning without a word: the output that another run
/// left, and the read changes, would be done again.
#[test]
fn a_journal_under_another_name_is_refused() {
    let half = Half::done();
    let journal = half.journal();
    let renamed = journal.with_file_name("journal-000007.hw");
    fs::rename(&journal, &renamed).unwrap();
    says(&half.refused(), &[&renamed.display().to_string(), "was renamed: inside it bears another number"]);
    fs::rename(&renamed, &journal).unwrap();
    half.goes_on();
}

#[test]
fn a_data_directory_that_is_a_link_to_nowhere_or_below_a_file_is_refused() {
    let half = Half::done();
    let file = half.folder.path().join("file");
    fs::write(&file, "").unwrap();
    let link = half.folder.path().join("link");
    std::os::unix::fs::symlink(half.folder.path().join("nowhere"), &link).unwrap();
    for (data, what) in [(file.join("data"), "there is a file where a directory must be"), (link, "cannot create")] {
        let settings = Settings { data: Some(data.clone()), ..half.settings.clone() };
        let error = support::run(&settings, &pipeline(&half.record, ALL)).unwrap_err().to_string();
        says(&error, &[&data.display().to_string(), what]);
    }
    half.goes_on();
}
