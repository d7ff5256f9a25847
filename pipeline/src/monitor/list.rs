//! `docs/metrics.md`, made from the list of metrics.

use std::fmt::Write;

use highwater_operators::metrics::{ALL, BUCKETS, Kind};

const HEAD: &str = "\
# Metrics

Every metric has the label `pipeline`. Names that begin with `observer_` or `process_` are those of the first users' dashboards and stay.
Counters begin at zero with each run. How to scrape them, and what to ask: [monitoring.md](monitoring.md).

| metric | kind | label | meaning |
| --- | --- | --- | --- |
";

/// The whole page.
pub fn metrics_page() -> String {
    let mut text = HEAD.to_owned();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = metric.label.into_iter().chain(metric.second).map(|label| format!("`{label}`"));
        let label = labels.collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "| `{}` | {kind} | {label} | {} |", metric.name, metric.meaning);
    }
    text +=
        "| `process_resident_memory_bytes`, `process_cpu_seconds_total` and others | | | The process, as the kernel sees it |\n";
    let buckets = BUCKETS.map(|bound| bound.to_string()).join(", ");
    let _ = writeln!(text, "\nUpper bounds of the buckets of every histogram, in seconds: {buckets}.");
    text
}
