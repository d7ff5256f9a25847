//! Settings as documented, and what they do to the parts of a pipeline.

mod support;

use std::time::{Duration, Instant};

use highwater::config::tuning::Tuning;
use highwater::prelude::*;
use highwater::settings::Settings;
use support::input::{Input, Item, Script};

/// `HIGHWATER_WRITE=1 cargo test -p highwater --test settings` writes the pages anew.
#[track_caller]
fn is_made_from_the_list(name: &str, page: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("HIGHWATER_WRITE").is_some() {
        std::fs::write(&file, page).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == page,
        "docs/{name} is not what its list says; write it anew with\n  HIGHWATER_WRITE=1 cargo test -p highwater --test settings"
    );
}

#[test]
fn the_page_of_settings_is_made_from_the_list() {
    is_made_from_the_list("settings.md", &highwater::config::page::page());
}

#[test]
fn the_page_of_metrics_is_made_from_the_list() {
    is_made_from_the_list("metrics.md", &highwater::monitor::metrics_page());
}

fn hanging() -> highwater::run::Build {
    let input = std::sync::Arc::new(Input::of((0..3).map(|n| Item::good(format!("c{n}"), format!("k{n}")))));
    support::build(move |flow| {
        flow.source(Script { input: input.clone(), seed: 1 })
            .dedup(Dedup::latest(10))
            .lookup("tier", Lookup::by("x").from(load(|_| async { Ok(Default::default()) })))
            .fan_out([
                action("hangs", run(|_| async { std::future::pending().await })).timeout(hours(1)).attempts(1),
                action("works", run(|_| async { Ok(()) })),
            ])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    })
}

#[test]
fn a_setting_takes_the_place_of_what_the_code_says_of_one_action() {
    let folder = support::folder();
    let tuning = Tuning::default().set("timeout=30s").unwrap().set("action.hangs.timeout=1ms").unwrap();
    let settings = Settings { tuning, ..support::settings(folder.path().join("data"), 2) };
    let began = Instant::now();
    let report = support::run(&settings, &hanging()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(25), "one attempt of one millisecond");
    assert_eq!((report.actions["hangs"].parked, report.actions["works"].delivered), (3, 3));
}

#[test]
fn settings_of_parts_that_are_not_there_are_refused_with_the_nearest_name() {
    let folder = support::folder();
    let said = ["action.hnags.timeout=1s", "lookup.tier.cache_size=7", "lookup.zebra.cache_size=7", "dedup.dedup.window=1m"];
    let tuning = said.iter().fold(Tuning::default(), |tuning, said| tuning.set(said).unwrap());
    let settings = Settings { tuning, ..support::settings(folder.path().join("data"), 1) };
    let error = support::run(&settings, &hanging()).unwrap_err().to_string();
    assert!(error.contains("the pipeline has no action \"hnags\"; did you mean \"hangs\"?"), "{error}");
    assert!(error.contains("the pipeline has no lookup \"zebra\"; it has: tier"), "{error}");
    assert!(!error.contains("dedup"), "{error}");
    assert!(!folder.path().join("data").exists(), "nothing is opened");
}
