//! Control over a run from outside: stop it, or make it crash in a test.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use highwater_operators::halt::{Ending, Halt};
use highwater_operators::process::Process;
use highwater_operators::why::Why;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::report::ActionBooks;

/// A handle on a run, made before it starts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Control(Arc<Shared>);

#[derive(Default)]
struct Shared {
    process: Mutex<Weak<Process>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    signals: bool,
    asked: u32,
    #[cfg(feature = "testing")]
    failpoint: Option<(&'static str, u64)>,
    #[cfg(feature = "testing")]
    hand: Option<Arc<highwater_operators::clock::Hand>>,
}

impl Control {
    /// A control that also listens to Ctrl-C and SIGTERM: the first drains, the second ends at once.
    pub fn with_signals() -> Self {
        let control = Control::default();
        control.0.state.lock().signals = true;
        control
    }

    /// Asks the run to end: the first time by draining, the second time at once. Either is safe.
    pub fn stop(&self) {
        let asked = {
            let mut state = self.0.state.lock();
            state.asked += 1;
            state.asked
        };
        if let Some(process) = self.0.process.lock().upgrade() {
            match asked {
                1 => process.stop(),
                _ => process.halt.end(Ending::Abandoned),
            }
        }
    }

    /// Ends the run at once. `false`: there is none, or not yet.
    pub(crate) fn abandon(&self) -> bool {
        self.0.state.lock().asked += 2;
        let process = self.0.process.lock().upgrade();
        process.inspect(|process| process.halt.end(Ending::Abandoned)).is_some()
    }

    /// What holds the mark of the run, if it runs. Waits up to `patience` for the operators' answers.
    pub fn why(&self, patience: Duration) -> Option<Why> {
        let process = self.0.process.lock().upgrade()?;
        Some(process.why(patience))
    }

    /// The books of every action of the run as they stand, if it runs.
    pub fn books(&self) -> Option<BTreeMap<String, ActionBooks>> {
        let process = self.0.process.lock().upgrade()?;
        Some(ActionBooks::of(&process, &BTreeMap::new()))
    }

    /// How often the run was asked to end.
    pub fn asked(&self) -> u32 {
        self.0.state.lock().asked
    }

    /// Lets the waits of the run go by a clock that is turned by hand.
    #[cfg(feature = "testing")]
    pub(crate) fn turn_by(&self, hand: &Arc<highwater_operators::clock::Hand>) {
        self.0.state.lock().hand = Some(hand.clone());
    }

    /// The run's process, while there is one.
    #[cfg(feature = "testing")]
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.0.process.lock().upgrade()
    }

    /// Makes the run crash when it passes a failpoint for the `passage`-th time.
    #[cfg(feature = "testing")]
    pub fn crash_at(&self, failpoint: &'static str, passage: u64) {
        self.0.state.lock().failpoint = Some((failpoint, passage));
    }

    /// Makes the thread that passes a failpoint wait there; `None` lets it go on. Does nothing if no run is under way.
    #[cfg(feature = "testing")]
    pub fn stall_at(&self, failpoint: Option<&'static str>) {
        let Some(process) = self.0.process.lock().upgrade() else { return };
        match failpoint {
            Some(failpoint) => process.halt.failpoints.stall(failpoint),
            None => process.halt.failpoints.go_on(),
        }
    }

    pub(crate) fn attach(&self, process: &Arc<Process>, runtime: &Handle) {
        *self.0.process.lock() = Arc::downgrade(process);
        let state = self.0.state.lock();
        if state.asked > 0 {
            process.stop();
        }
        if state.asked > 1 {
            process.halt.end(Ending::Abandoned);
        }
        if state.signals {
            let control = self.clone();
            runtime.spawn(listen(control));
        }
    }

    /// Lets waits go by the clock that a test has asked for, before anything runs.
    pub(crate) fn set_clock(&self, process: &Process) {
        #[cfg(feature = "testing")]
        if let Some(hand) = &self.0.state.lock().hand {
            process.clock.turn_by(hand.clone());
        }
        let _ = process;
    }

    /// Arms the failpoint that a test has asked for, before anything is opened.
    pub(crate) fn arm(&self, halt: &Halt) {
        #[cfg(feature = "testing")]
        if let Some((name, passage)) = self.0.state.lock().failpoint {
            halt.failpoints.arm(name, passage);
        }
        let _ = halt;
    }

    pub(crate) fn detach(&self) {
        *self.0.process.lock() = Weak::new();
    }
}

async fn listen(control: Control) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return;
    };
    loop {
        let heard = tokio::select! {
            heard = interrupt.recv() => heard,
            heard = terminate.recv() => heard,
        };
        if heard.is_none() {
            return;
        }
        match control.asked() {
            0 => eprintln!("draining: finishing what is under way; once more ends at once"),
            _ => eprintln!("ending at once: what is unfinished is read again by the next run"),
        }
        control.stop();
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}
