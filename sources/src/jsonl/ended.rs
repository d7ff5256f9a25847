//! Reads a content that is there to its end.

use std::time::Duration;

use highwater_operators::ingest::{Batch, Read, Reader};
use highwater_operators::{Error, Result};

use super::content::Content;
use super::lines::{Lines, Step};

pub(super) struct Ended {
    content: Content,
    lines: Lines,
}

impl Ended {
    pub fn new(content: Content, lines: Lines) -> Self {
        Ended { content, lines }
    }
}

impl Reader for Ended {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        if self.lines.step(&mut self.content, true, batch)? == Step::Lines {
            return Ok(Read::Some);
        }
        if !self.content.ended {
            return Ok(Read::Idle(Duration::ZERO));
        }
        if let Some(file) = self.content.plain()
            && let Ok(metadata) = file.metadata()
            && metadata.len() < self.lines.at()
        {
            return Err(Error::stop(format!(
                "{} was cut to {} bytes while it was read, and byte {} had been read; restore it, or follow files that are \
                 rotated with .follow()",
                self.content.path.display(),
                metadata.len(),
                self.lines.at()
            )));
        }
        Ok(Read::End)
    }
}
