//! The saver: waits for the disk so that neither the workers nor the keeper's small notes have to.
//!
//! A save first makes the files of cut-back sinks durable up to the frontier, which takes milliseconds; only then does it go
//! to the keeper, with the lengths. The lengths belong to the frontier of this save, so they are taken here, once.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Sender, unbounded};

use crate::checkpoint::store::{Resolved, Save};
use crate::metrics::SAVE_DURATION;
use crate::offload::Post;
use crate::pace::Saving;
use crate::position::Epoch;
use crate::process::Process;

/// A save has become durable.
pub(crate) struct Saved {
    /// Its frontier.
    pub epoch: Epoch,
}

/// The handle to the saving thread, which ends when it is dropped.
pub(crate) struct Saver(Sender<(Save, Vec<Resolved>)>);

impl Saver {
    /// Begins a save. The parked records that ended in cut-back files end with it, in the same step.
    pub(crate) fn save(&self, save: Save, ended: Vec<Resolved>) {
        let _ = self.0.send((save, ended));
    }
}

/// Starts the saving thread.
pub(crate) fn start(process: &Arc<Process>, post: Post<Saved>) -> Saver {
    let (saves, inbox) = unbounded::<(Save, Vec<Resolved>)>();
    let process = process.clone();
    let durations = process.metrics.histogram(&SAVE_DURATION, "");
    std::thread::Builder::new()
        .name("saver".into())
        .spawn(move || {
            while let Ok((mut save, ended)) = inbox.recv() {
                let began = Instant::now();
                process.pace.save(Some(Saving::Files));
                match process.files_at(save.epoch) {
                    Ok(files) => save.files = files,
                    Err(error) => return process.halt.fail(error.context("a checkpoint could not be saved")),
                }
                if process.halt.is_frozen() || process.halt.passes("save.synced") {
                    return;
                }
                process.pace.save(Some(Saving::Store));
                let mark = save.mark.clone();
                let (epoch, post, durations, told) = (save.epoch, post.clone(), durations.clone(), process.clone());
                process.keeper.save(Box::new(save), ended, move |()| {
                    durations.record(began.elapsed().as_secs_f64());
                    told.pace.save(None);
                    told.listeners.saved(&mark);
                    told.cluster.saved(epoch, &mark);
                    post.send(Saved { epoch });
                });
            }
        })
        .expect("the system gives a thread at start");
    Saver(saves)
}
