//! What the instruments cost: the main example without a monitor, and with one that is asked all the time, in turns.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Parser;
use comfy_table::Table;
use highwater_benches::job::Job;
use highwater_benches::measure::{Outcome, median, range, thousands};

/// Runs the main example with and without its monitor, in turns, and prints the medians.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    job: Job,
    /// How often each is run
    #[arg(long, default_value_t = 7)]
    repetitions: u32,
    /// Milliseconds between two questions for the metrics
    #[arg(long, default_value_t = 250)]
    every_ms: u64,
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let (_folder, off) = flags.job.prepare("instruments-")?;
    let on = off.clone().listening("127.0.0.1:0");
    let (mut seconds_off, mut seconds_on, mut answers) = (Vec::new(), Vec::new(), 0);
    for repetition in 1..=flags.repetitions {
        for is_on in [repetition % 2 == 0, repetition % 2 == 1] {
            off.wipe()?;
            let orders = if is_on { &on } else { &off };
            let running = orders.start(flags.job.workers, None)?;
            let asker = is_on.then(|| Asker::start(&orders.data(), Duration::from_millis(flags.every_ms)));
            let ended = running.wait()?;
            ended.report()?;
            answers += asker.map_or(0, Asker::stop);
            if is_on { &mut seconds_on } else { &mut seconds_off }.push(ended.seconds);
        }
    }
    if answers == 0 {
        return Err("nobody was answered: the runs were too short to be asked".into());
    }
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["instruments", "median s", "range s", "changes/s"]);
    for (name, seconds) in [("off", &seconds_off), ("on", &seconds_on)] {
        let middle = median(seconds);
        let rate = thousands(flags.job.events as f64 / middle);
        table.add_row([name.to_owned(), format!("{middle:.3}"), range(seconds, 2), rate]);
    }
    println!("{} changes, {} runs of each in turns; the metrics were read {answers} times", flags.job.events, flags.repetitions);
    println!("{table}");
    println!("on / off: {:.3}", median(&seconds_on) / median(&seconds_off));
    Ok(())
}

/// Asks for the metrics again and again.
struct Asker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Asker {
    fn start(data: &Path, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, notice) = (stop.clone(), data.join("monitor.json"));
        let thread = thread::spawn(move || {
            let mut answers = 0;
            while !stopped.load(Ordering::Relaxed) {
                answers += u64::from(ask(&notice).is_some());
                thread::sleep(every);
            }
            answers
        });
        Asker { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

/// One answer, if there is somebody to give it.
fn ask(notice: &Path) -> Option<String> {
    let notice: serde_json::Value = serde_json::from_slice(&std::fs::read(notice).ok()?).ok()?;
    let address = notice["url"].as_str()?.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut stream = TcpStream::connect(&address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("observer_events_processed_total{").then_some(answer)
}
