//! A progress bar for runs whose sources know how much there is to read.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::process::Process;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use crate::run::open::Opened;
use crate::settings::Settings;

pub(super) struct Progress {
    bar: ProgressBar,
    process: Arc<Process>,
    before: u64,
    started: std::time::Instant,
}

impl Progress {
    pub(super) fn start(process: &Arc<Process>, settings: &Settings, opened: &Opened) -> Self {
        let (total, before) = opened.bytes.unwrap_or_default();
        let bar = if settings.no_progress || total <= before { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(before);
        bar.reset_eta();
        Progress { bar, process: process.clone(), before, started: std::time::Instant::now() }
    }

    pub(super) fn update(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let (read, bytes) = self.process.read_about();
        let rate = read as f64 / self.started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        self.bar.set_position(self.before + bytes);
        self.bar.set_message(format!(
            "{} of {}  {} changes/s  in flight {}",
            HumanBytes(self.before + bytes),
            HumanBytes(self.bar.length().unwrap_or_default()),
            HumanCount(rate as u64),
            // Units are one per action that a change can reach.
            HumanCount(self.process.units_about() / self.process.limits.actions as u64)
        ));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
