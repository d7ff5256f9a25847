//! A real Prometheus scrapes a running pipeline, and the users' own expressions say what is true.

mod support;
#[path = "support/web.rs"]
mod web;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::operators::metrics::BUCKETS;
use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use parking_lot::Mutex;
use support::input::{Input, Item, Script};

/// The tool, or a sentence that says how to come by it.
fn tool(name: &str) -> Command {
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(found.is_ok(), "{name} is missing: it is in Debian's package \"prometheus\"; scripts/install-test-tools installs it");
    Command::new(name)
}

/// What the pipeline really did, as its own closures saw it.
#[derive(Default)]
struct Truth {
    calls: AtomicU64,
    failed: AtomicU64,
    /// Seconds that each call took.
    took: Mutex<Vec<f64>>,
    keys_loaded: AtomicU64,
}

/// An action that fails once for each tenth change, and is slow for each thirtieth.
struct Mail(Arc<Truth>);

impl Action for Mail {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let n: u64 = delivery.id()[1..].parse()?;
            let began = Instant::now();
            tokio::time::sleep(millis(if n.is_multiple_of(30) { 350 } else { 5 })).await;
            self.0.took.lock().push(began.elapsed().as_secs_f64());
            self.0.calls.fetch_add(1, Ordering::Relaxed);
            if n.is_multiple_of(10) && delivery.attempt() == 1 {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
                return Err(Error::retry("busy"));
            }
            Ok(())
        })
    }
}

fn workload(truth: &Arc<Truth>) -> Build {
    let input = Arc::new(Input::of((0..500_000).map(|n| Item::good(format!("c{n}"), format!("k{}", n % 997)))));
    let truth = truth.clone();
    support::build(move |flow| {
        let of_keys = truth.clone();
        let tiers = move |keys: Vec<String>| {
            let truth = of_keys.clone();
            async move {
                truth.keys_loaded.fetch_add(keys.len() as u64, Ordering::Relaxed);
                Ok(keys.iter().map(|_| Some(Fields::new([("tier", Some("gold"))]))).collect())
            }
        };
        // Every fourth lookup asks for a key of its own, the others for one of seven.
        let key = |change: &Change| {
            let n: u64 = change.id()[1..].parse().ok()?;
            Some(if n.is_multiple_of(4) { format!("own-{n}") } else { format!("shared-{}", n % 7) })
        };
        flow.source(Script { input: input.clone(), seed: 4 })
            .lookup("tier", Lookup::by_key(key).from(load(tiers)))
            .fan_out([action("mail", Mail(truth.clone())).max_parallelism(40).backoff(millis(1), millis(5))])
            .checkpoint(Checkpoint::every(millis(50)));
        Ok(())
    })
}

struct Prometheus {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// One that scrapes `target` each second, with the committed alert rules over windows of ten seconds.
    fn start(folder: &Path, target: &str) -> Self {
        let rules = std::fs::read_to_string(documents().join("alerts.yml")).unwrap().replace("[5m]", "[10s]");
        let rules: Vec<String> = rules
            .lines()
            .map(|line| if line.trim_start().starts_with("for:") { "        for: 0s".to_owned() } else { line.to_owned() })
            .collect();
        std::fs::write(folder.join("alerts.yml"), rules.join("\n")).unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yml]\n\
             scrape_configs:\n- job_name: highwater\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        loop {
            // Another program may take the port in between: then this one ends, and another port is tried.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let log = folder.join("prometheus.log");
            let mut child = tool("prometheus")
                .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let url = format!("http://127.0.0.1:{port}");
            let ready = web::wait("prometheus is ready", || {
                if child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                let ready = ureq::get(format!("{url}/-/ready")).call().is_ok_and(|answer| answer.status() == 200);
                ready.then_some(true)
            });
            if ready {
                return Prometheus { child, url, log };
            }
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(said.contains("address already in use"), "prometheus ended:\n{said}");
        }
    }

    /// The values of an expression, by the labels in it that tell series apart.
    fn ask(&self, expression: &str) -> BTreeMap<String, f64> {
        let answer = ureq::get(format!("{}/api/v1/query", self.url))
            .query("query", expression)
            .config()
            .http_status_as_error(false)
            .build();
        let text = answer.call().unwrap().body_mut().read_to_string().unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}\n{}", std::fs::read_to_string(&self.log).unwrap());
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |series: &serde_json::Value| {
            let label =
                ["action", "lookup", "source"].iter().find_map(|label| series["metric"][label].as_str()).unwrap_or_default();
            (label.to_owned(), series["value"][1].as_str().unwrap().parse().unwrap())
        };
        series.iter().map(value).collect()
    }

    /// The one value of an expression.
    fn one(&self, expression: &str) -> f64 {
        let values = self.ask(expression);
        assert_eq!(values.len(), 1, "{expression} gives {values:?}");
        *values.values().next().unwrap()
    }

    fn firing(&self) -> Vec<String> {
        let alerts = web::json(&format!("{}/api/v1/alerts", self.url));
        let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }
}

fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[track_caller]
fn near(what: &str, told: f64, truth: f64, within: f64) {
    assert!((told - truth).abs() <= within, "{what}: Prometheus says {told}, the pipeline did {truth} (give or take {within})");
}

/// The bounds within which a quantile from buckets must be, if the true one is this, give or take a quarter.
fn bucket(truth: f64) -> (f64, f64) {
    let below = BUCKETS.iter().rev().find(|bound| **bound <= truth * 0.75).copied().unwrap_or_default();
    (below, BUCKETS.iter().find(|bound| **bound >= truth * 1.25).copied().unwrap_or(f64::MAX))
}

#[test]
fn the_users_expressions_say_what_the_pipeline_did() {
    let (folder, truth) = (support::folder(), Arc::new(Truth::default()));
    let data = folder.path().join("data");
    let settings = Settings { listen: web::anywhere(), in_flight_changes: 100, ..support::settings(data.clone(), 2) };
    let running = support::start(&settings, &workload(&truth), Control::default());
    let url = web::monitor(&data);
    let prometheus = Prometheus::start(folder.path(), url.trim_start_matches("http://"));

    // Until a window of ten seconds is full. What was done is noted beside, each time Prometheus is asked.
    let mut seen: Vec<(Instant, u64)> = Vec::new();
    web::wait("ten scrapes and more", || {
        seen.push((Instant::now(), truth.calls.load(Ordering::Relaxed)));
        let scrapes = prometheus.ask("count_over_time(observer_actions_executed_total[13s])");
        scrapes.values().any(|scrapes| *scrapes >= 13.0).then_some(())
    });

    // Throughput: changes, not attempts; ten changes make eleven attempts.
    let (now, calls) = *seen.last().unwrap();
    let (then, calls_then) = *seen.iter().find(|(at, _)| now.duration_since(*at) <= Duration::from_secs(10)).unwrap();
    let calls_per_second = (calls - calls_then) as f64 / now.duration_since(then).as_secs_f64();
    let read = prometheus.one("rate(observer_events_processed_total[10s])");
    near("changes read per second", read, calls_per_second * 10.0 / 11.0, calls_per_second * 0.25);

    // Latency, over the bare name as the users have it, and as Prometheus' own documents have it. Both are of the whole run
    // or of the window; a quantile from buckets is somewhere in the bucket of the true one.
    let mut took = truth.took.lock().clone();
    took.sort_by(f64::total_cmp);
    let true_p99 = took[took.len() * 99 / 100];
    for expression in [
        "histogram_quantile(0.99, observer_action_duration_seconds)",
        "histogram_quantile(0.99, rate(observer_action_duration_seconds_bucket[10s]))",
    ] {
        let (p99, (least, most)) = (prometheus.one(expression), bucket(true_p99));
        assert!((least..=most).contains(&p99), "{expression} says {p99}, and it was {true_p99}");
    }
    let median = prometheus.one("histogram_quantile(0.5, observer_action_duration_seconds)");
    let (true_median, (least, most)) = (took[took.len() / 2], bucket(took[took.len() / 2]));
    assert!((least..=most).contains(&median), "the median is told as {median}, and was {true_median}");

    // Failures.
    let failing = prometheus.one("rate(observer_actions_failed_total[10s]) / rate(observer_actions_executed_total[10s])");
    near("share of attempts that fail", failing, 1.0 / 11.0, 0.02);
    let failed_now = truth.failed.load(Ordering::Relaxed) as f64;
    let failed = prometheus.one("observer_actions_failed_total");
    assert!(failed > 0.0 && failed <= failed_now + 40.0, "{failed} failed, and {failed_now} did");

    // Cache.
    let hits = prometheus.one("observer_cache_hits_total / (observer_cache_hits_total + observer_cache_misses_total)");
    near("share of hits", hits, 0.75, 0.03);
    near("hit rate", prometheus.one("observer_cache_hit_rate"), hits, 0.01);
    assert!(prometheus.one("observer_cache_misses_total") <= truth.keys_loaded.load(Ordering::Relaxed) as f64 + 100.0);
    assert!(
        prometheus
            .ask("(observer_cache_hits_total / (observer_cache_hits_total + observer_cache_misses_total)) < 0.6")
            .is_empty()
    );

    // The process, as the kernel sees it.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: f64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    near("resident memory", prometheus.one("process_resident_memory_bytes"), resident * 1024.0, resident * 1024.0 * 0.5);
    let cpu = prometheus.one("process_cpu_seconds_total");
    assert!(cpu > 0.0 && cpu < seen[0].0.elapsed().as_secs_f64() * 4.0 + 60.0, "{cpu}");

    // The alerts, by name: one attempt in eleven fails, which is more than one in twenty; nothing else is wrong.
    let firing =
        web::wait("the alert rules have been looked at", || Some(prometheus.firing()).filter(|firing| !firing.is_empty()));
    assert_eq!(firing, ["HighActionFailureRate"]);

    running.control.stop();
    let report = running.end().unwrap();
    let calls = truth.calls.load(Ordering::Relaxed);
    assert!(report.actions["mail"].delivered <= calls && report.actions["mail"].parked == 0);
}

#[test]
fn promtool_accepts_the_metrics_and_the_alerts() {
    let (folder, truth) = (support::folder(), Arc::new(Truth::default()));
    let data = folder.path().join("data");
    let settings = Settings { listen: web::anywhere(), in_flight_changes: 100, ..support::settings(data.clone(), 1) };
    let running = support::start(&settings, &workload(&truth), Control::default());
    let url = web::monitor(&data);
    let metrics = web::wait("every kind of metric has a value", || {
        let (_, text) = web::get(&format!("{url}/metrics"));
        let names =
            ["observer_action_duration_seconds_bucket", "observer_cache_hits_total", "highwater_save_duration_seconds_count"];
        names.iter().all(|name| text.contains(&format!("\n{name}{{"))).then_some(text)
    });
    running.control.stop();
    running.end().unwrap();

    let file = folder.path().join("metrics");
    std::fs::write(&file, &metrics).unwrap();
    let checked = tool("promtool").args(["check", "metrics"]).stdin(std::fs::File::open(&file).unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr) + String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.is_empty(), "{said}\n{metrics}");
    let checked = tool("promtool").args(["check", "rules"]).arg(documents().join("alerts.yml")).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
