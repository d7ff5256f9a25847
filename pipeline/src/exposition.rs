//! The metrics of a run as Prometheus reads them.

use std::sync::Arc;

use highwater_operators::metrics::{ACTION_DURATION, BUCKETS, Metrics};
use highwater_operators::process::Process;
use metrics::with_local_recorder;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

/// Where the metrics of one run are gathered. Each run has its own, so that several can live in one program.
#[derive(Clone)]
pub(crate) struct Exposition(Arc<Inner>);

struct Inner {
    /// One at a time: what describes the process is collected under a recorder of the thread.
    recorder: Mutex<PrometheusRecorder>,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Exposition {
    /// A place for metrics, and the metrics that go there. Every metric bears the pipeline's name as a label.
    pub(crate) fn gather(pipeline: &str) -> (Option<Self>, Metrics) {
        let recorder = || {
            let builder = PrometheusBuilder::new().add_global_label("pipeline", pipeline);
            builder.set_buckets(&BUCKETS).expect("there are buckets").build_recorder()
        };
        let (of_pipeline, recorder) = (recorder(), recorder());
        let handle = of_pipeline.handle();
        let metrics = Metrics::new(of_pipeline);
        let process = metrics_process::Collector::default();
        with_local_recorder(&recorder, || process.describe());
        (Some(Exposition(Arc::new(Inner { recorder: Mutex::new(recorder), handle, process }))), metrics)
    }

    /// Empties what the histograms have gathered. To be called every few seconds, whether anybody reads or not.
    pub(crate) fn upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    /// All metrics, brought up to date, in Prometheus' text format.
    pub(crate) fn render(&self, process: &Process) -> String {
        process.metrics.collect(process);
        let of_process = {
            let recorder = self.0.recorder.lock();
            with_local_recorder(&*recorder, || self.0.process.collect());
            recorder.handle().render()
        };
        with_bare_buckets(&self.0.handle.render()) + &of_process
    }
}

/// Adds to each bucket of the action durations a line under the bare name.
///
/// The users' expressions are `histogram_quantile(0.99, observer_action_duration_seconds)`, without `_bucket` and without
/// `rate`: over a classic histogram that finds nothing. Under the bare name with its `le` it finds the buckets since the start.
fn with_bare_buckets(text: &str) -> String {
    let bucket = format!("{}_bucket{{", ACTION_DURATION.name);
    let mut all = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        all.push_str(line);
        all.push('\n');
        if let Some(rest) = line.strip_prefix(&bucket) {
            all.push_str(ACTION_DURATION.name);
            all.push('{');
            all.push_str(rest);
            all.push('\n');
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_there_under_the_bare_name_too() {
        let text = "observer_action_duration_seconds_bucket{le=\"1\"} 3\nother_bucket{le=\"1\"} 3\n";
        let all = with_bare_buckets(text);
        assert_eq!(all.lines().count(), 3);
        assert!(all.contains("\nobserver_action_duration_seconds{le=\"1\"} 3\n"));
    }
}
