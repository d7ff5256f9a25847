//! What is forgotten or doubled in a pipeline is refused before anything is opened, all of it at once, with a sentence each.

use std::sync::Arc;

use highwater::prelude::*;
use highwater::run::{Build, Control, plan, run};
use highwater::settings::Settings;
use highwater_operators::action;

fn build(build: impl for<'s> Fn(&Flow<'s>) + Send + Sync + 'static) -> Build {
    Arc::new(move |flow: &Flow<'_>| {
        build(flow);
        Ok(())
    })
}

#[track_caller]
fn check(pipeline: impl for<'s> Fn(&Flow<'s>) + Send + Sync + 'static, problems: &[&str]) {
    let plan = plan(&build(pipeline)).unwrap();
    assert_eq!(plan.problems, problems, "\n{}", plan.text());
}

fn orders<'s>(flow: &Flow<'s>) -> Changes<'s> {
    flow.source(JsonLines::file("orders.jsonl"))
}

fn done(name: &str) -> action::NamedAction {
    action(name, action::run(|_| async { Ok(()) }))
}

fn end() -> Checkpoint {
    Checkpoint::every(millis(200))
}

#[test]
fn a_whole_pipeline_has_no_problems() {
    check(|flow| orders(flow).fan_out([done("a"), done("b")]).checkpoint(end()), &[]);
}

#[test]
fn nothing_at_all() {
    check(|_| {}, &["there is no source; begin with flow.source(..)"]);
}

#[test]
fn a_forgotten_fan_out() {
    check(
        |flow| drop(orders(flow).dedup(Dedup::within(minutes(1)))),
        &["source \"jsonl\" (orders.jsonl) reaches no action; add .fan_out([..])"],
    );
    check(
        |flow| orders(flow).fan_out([]).checkpoint(end()),
        &["source \"jsonl\" (orders.jsonl) reaches no action; add .fan_out([..])"],
    );
}

#[test]
fn a_forgotten_checkpoint() {
    check(
        |flow| drop(orders(flow).fan_out([done("a")])),
        &["source \"jsonl\" (orders.jsonl) reaches no checkpoint; end its fan-out with .checkpoint(Checkpoint::every(..))"],
    );
}

#[test]
fn a_fan_out_beside_the_one_with_the_checkpoint() {
    let problem = "action \"a\" reaches no checkpoint; join its fan-out to the other with .and(..)";
    check(
        |flow| {
            let orders = orders(flow);
            drop(orders.clone().fan_out([done("a")]));
            orders.fan_out([done("b")]).checkpoint(end());
        },
        &[problem],
    );
    check(
        |flow| {
            drop(orders(flow).fan_out([done("a")]));
            flow.source(JsonLines::file("more.jsonl")).fan_out([done("b")]).checkpoint(end());
        },
        &[problem],
    );
    check(
        |flow| {
            let more = flow.source(JsonLines::file("more.jsonl")).fan_out([done("b")]);
            orders(flow).fan_out([done("a")]).and(more).checkpoint(end());
        },
        &[],
    );
}

#[test]
fn two_checkpoints() {
    check(
        |flow| {
            let orders = orders(flow);
            orders.clone().fan_out([done("a")]).checkpoint(end());
            orders.fan_out([done("b")]).checkpoint(end());
        },
        &["there are 2 checkpoints; join the fan-outs with .and(..) and end with one"],
    );
}

#[test]
fn streams_of_ones_own_that_come_to_no_end() {
    check(|flow| drop(orders(flow).stream()), &["there is no checkpoint; end a fan-out with .checkpoint(Checkpoint::every(..))"]);
    check(|flow| drop(flow.from_stream(orders(flow).stream())), &["stream in \"stream\" reaches no action; add .fan_out([..])"]);
    check(
        |flow| drop(flow.from_stream(orders(flow).stream()).fan_out([done("a")])),
        &["stream in \"stream\" reaches no checkpoint; end its fan-out with .checkpoint(Checkpoint::every(..))"],
    );
}

#[test]
fn a_lookup_without_an_origin() {
    check(
        |flow| orders(flow).lookup("customer", Lookup::by("customer_id")).fan_out([done("a")]).checkpoint(end()),
        &["lookup \"customer\" has no origin; say where its rows come from with .from(..)"],
    );
}

#[test]
fn names_that_are_doubled_or_missing() {
    check(
        |flow| orders(flow).fan_out([done("mail"), done("mail"), done(" ")]).checkpoint(end()),
        &[
            "two actions are named \"mail\"; names must be unique, outcomes go by them",
            "an action has an empty name; its outcomes go by its name",
        ],
    );
    let customer = || Lookup::by("customer_id").from(Csv::file("customers.csv"));
    check(
        move |flow| orders(flow).lookup("c", customer()).lookup("c", customer()).fan_out([done("a")]).checkpoint(end()),
        &["two lookups are named \"c\"; give each a name of its own"],
    );
}

/// Goal: a person mends all mistakes in one go, and a run that is refused leaves nothing behind. Method: four mistakes in one
/// pipeline, run in a directory that must not appear.
#[test]
fn everything_is_said_at_once_and_nothing_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { data: Some(folder.path().join("data")), workers: Some(1), ..Settings::default() };
    let pipeline = build(|flow| {
        drop(flow.source(JsonLines::file("more.jsonl")));
        drop(orders(flow).lookup("customer", Lookup::by("customer_id")).fan_out([done("mail"), done("mail")]));
    });
    let error = run("wrong", &settings, &pipeline, &Control::default()).unwrap_err().to_string();
    let expected = "the pipeline is not complete:\n  \
        - source \"jsonl\" (more.jsonl) reaches no action; add .fan_out([..])\n  \
        - source \"jsonl-2\" (orders.jsonl) reaches no checkpoint; end its fan-out with .checkpoint(Checkpoint::every(..))\n  \
        - two actions are named \"mail\"; names must be unique, outcomes go by them\n  \
        - lookup \"customer\" has no origin; say where its rows come from with .from(..)";
    assert_eq!(error, expected);
    assert!(!folder.path().join("data").exists());
}

#[test]
fn the_shape_is_told_as_text_and_for_graphviz() {
    let plan = plan(&build(|flow| {
        let changes = orders(flow).filter(|_| true).filter(|_| true);
        flow.from_stream(changes.stream()).fan_out([done("a")]).checkpoint(end());
    }))
    .unwrap();
    let expected = " 1  source jsonl  (orders.jsonl)\n \
        2  filter  <- source jsonl\n \
        3  filter filter-2  <- filter\n \
        4  stream out  <- filter filter-2\n \
        5  stream in\n \
        6  action a  <- stream in\n \
        7  checkpoint  (every 200ms, or 1000 changes)  <- action a\n";
    assert_eq!(plan.text(), expected);
    assert!(plan.dot().starts_with("digraph pipeline {") && plan.dot().contains("  n0 -> n1;\n"), "{}", plan.dot());
}
