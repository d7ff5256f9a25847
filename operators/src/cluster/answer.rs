//! How a member answers the leader's questions: on a thread of its own, for syncing files takes a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::message::{Answer, Counts, Message, Question};
use crate::ingest::discovery::Ways;
use crate::ingest::source::Partition;
use crate::process::Process;

/// How long a source may take to be built on this process, before its new partition is refused.
const BUILT: Duration = Duration::from_secs(10);

/// Starts the thread that answers. It ends with the connection.
pub(super) fn start(shared: &Arc<Shared>) {
    let questions = shared.questions.1.clone();
    let shared = Arc::downgrade(shared);
    let answer = move || {
        loop {
            // Looks up now and then, or it would wait for ever for a run that is over.
            let asked = questions.recv_timeout(Duration::from_millis(200));
            let Some(shared) = shared.upgrade().filter(|shared| !shared.closed.load(std::sync::atomic::Ordering::Acquire)) else {
                return;
            };
            let (Ok((number, question)), Some(process)) = (asked, shared.process()) else { continue };
            match question {
                Question::Why(patience) => {
                    let (shared, process) = (shared.clone(), process.clone());
                    // Waits for workers that may not answer; saves must not wait with it.
                    let ask = move || {
                        let why = process.why_here(Duration::from_millis(patience));
                        shared.send_answer(number, Answer::Why(Box::new(why)));
                    };
                    let _ = std::thread::Builder::new().name("why".into()).spawn(ask);
                }
                question => {
                    let answer = process.answer(question);
                    shared.send_answer(number, answer);
                }
            }
        }
    };
    std::thread::Builder::new().name("answers".into()).spawn(answer).expect("the system gives a thread at start");
}

impl Shared {
    fn send_answer(&self, number: u64, answer: Answer) {
        if let Some(way) = &self.ways[0] {
            way.send(Message::Answer(number, answer));
        }
    }
}

impl Process {
    fn answer(self: &Arc<Self>, question: Question) -> Answer {
        match question {
            Question::Files(frontier) => Answer::Files(self.sink_writer.files_at(frontier).map_err(|error| error.to_string())),
            Question::Counts => Answer::Counts(Box::new(Counts::of(self))),
            Question::Why(patience) => Answer::Why(Box::new(self.why_here(Duration::from_millis(patience)))),
            Question::Know { source, id } => {
                Answer::Done(self.ways(&source).and_then(|ways| match self.hasher.add_partition(id, ways.global_ids) {
                    true => Ok(()),
                    false => Err("too many partitions came in one run; start the pipeline again, it continues there".to_owned()),
                }))
            }
            Question::Read { source, id, name } => Answer::Done(self.ways(&source).map(|ways| {
                if let Some(told) = &ways.told {
                    // A reader that is gone has stopped: the next run finds the partition again.
                    let _ = told.send(Partition { id, name });
                }
            })),
        }
    }

    /// Where new partitions of a source go. The workers may still be at building it.
    fn ways(&self, source: &str) -> Result<Arc<Ways>, String> {
        let began = Instant::now();
        loop {
            if let Some(ways) = self.shared.get::<Ways>(source) {
                return Ok(ways);
            }
            if began.elapsed() > BUILT || self.halt.is_halted() {
                return Err(format!("source \"{source}\" is not built on process {}", self.cluster.place().process));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
