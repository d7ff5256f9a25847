//! Standard output as an action: a line per change.

use std::io::Write;
use std::sync::Arc;

use highwater_operators::action::{BatchAction, BoxFuture, Delivery};
use highwater_operators::change::Change;
use highwater_operators::{Error, Result};

use crate::line::Line;

type Format = Arc<dyn Fn(&Change, &mut Vec<u8>) + Send + Sync>;

/// Prints a line per change. What was printed cannot be taken back: after a crash, up to `max_parallelism` lines repeat.
#[derive(Clone)]
pub struct Stdout(Format);

impl Stdout {
    /// Prints the change in the default envelope.
    pub fn json_lines() -> Self {
        Stdout(Arc::new(|change, out| {
            Line::write(out, |line| {
                line.change(change);
            });
        }))
    }

    /// Prints what `format` makes of a change, and a newline.
    pub fn lines(format: impl Fn(&Change) -> String + Send + Sync + 'static) -> Self {
        Stdout(Arc::new(move |change, out| {
            out.extend_from_slice(format(change).as_bytes());
            out.push(b'\n');
        }))
    }
}

impl BatchAction for Stdout {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        let mut out = Vec::new();
        batch.iter().for_each(|delivery| (self.0)(delivery, &mut out));
        let changes = batch.len();
        Box::pin(async move {
            let print = move || {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&out).and_then(|()| stdout.flush())
            };
            // A pipe that nobody reads blocks: not on the runtime's own threads.
            let printed = tokio::task::spawn_blocking(print).await;
            let result = |printed: &std::io::Result<()>| match printed {
                Ok(()) => Ok(()),
                Err(error) => Err(Error::stop(format!("cannot print to standard output: {error}"))),
            };
            match printed {
                Ok(printed) => (0..changes).map(|_| result(&printed)).collect(),
                Err(_) => Vec::new(),
            }
        })
    }
}

impl std::fmt::Debug for Stdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stdout")
    }
}
