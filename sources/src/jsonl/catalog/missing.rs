//! What a run refuses to begin with: partitions that are missing, or that cannot be told apart.

use highwater_operators::{Error, Result};

use super::{Catalog, Entry, Kin, Placed, State};
use crate::jsonl::content::Content;
use crate::jsonl::landmark::Agreement;

impl Catalog {
    /// Refuses if what the checkpoint continues is in no file any more, unless it was read whole.
    pub(super) fn refuse_missing(&self, state: &State) -> Result {
        for (name, kin) in &state.partitions {
            let held = |entry: &Entry| entry.placed == Placed::Holds(name.clone());
            if state.files.values().any(held) || kin.progress.sealed || self.reading.missing_ok {
                continue;
            }
            let (offset, lines) = (kin.progress.offset, kin.progress.lines);
            if kin.progress.last.is_none() && !self.reading.follow {
                // Never read up to a checkpoint.
                continue;
            }
            for entry in state.files.values() {
                let Ok(mut content) = Content::open(&entry.path) else { continue };
                let path = entry.path.display();
                match self.judge(&entry.path, &mut content, &kin.name, kin.head(), &kin.progress) {
                    Ok(Agreement::SoFar) => {
                        return Err(Error::stop(format!(
                            "{path} is {} bytes long, but the checkpoint continues at byte {offset}: the file was cut short; \
                             restore it, or start again with a new data directory{}",
                            entry.length,
                            self.way_out()
                        )));
                    }
                    Ok(Agreement::Differs(at)) if at.end > 0 => {
                        return Err(Error::stop(format!(
                            "{path} was changed before byte {}, and the checkpoint continues at byte {offset}, where it was \
                             another file; restore it, or start again with a new data directory{}",
                            at.end,
                            self.way_out()
                        )));
                    }
                    _ => {}
                }
            }
            let holder = |name: &String| state.files.values().find(|entry| entry.placed == Placed::Holds(name.clone()));
            let found = state.partitions.keys().filter_map(|other| Some((other, holder(other)?)));
            let found: Vec<String> = found.map(|(other, holder)| format!("{other} in {}", holder.path.display())).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(Error::stop(format!(
                "the checkpoint continues partition jsonl/{name} at byte {offset} (line {}), which no file of {} holds any more \
                 (found: {found}); give the file back; or, if the input was replaced on purpose, start with a new data \
                 directory{}",
                lines + 1,
                self.place(),
                self.way_out()
            )));
        }
        Ok(())
    }

    fn way_out(&self) -> &'static str {
        match self.reading.follow {
            true => "; or, if what was not read of it is not wanted any more, say so with .missing_ok()",
            false => "",
        }
    }
}

/// A partition that was begun and is in no checkpoint yet is known by its first line alone: which of two files that differ was it?
pub(super) fn refuse_doubtful(state: &State) -> Result {
    let path = |name: &String| {
        let holder = state.files.values().find(|entry| entry.placed == Placed::Holds(name.clone()));
        holder.map(|entry| entry.path.display().to_string())
    };
    let doubtful = |kin: &Kin| kin.announced && kin.progress.last.is_none() && kin.name.mark.is_none();
    for (name, kin) in state.partitions.iter().filter(|(_, kin)| doubtful(kin)) {
        for (other, _) in state.partitions.iter().filter(|(_, other)| !other.announced && other.name.first == kin.name.first) {
            if let (Some(one), Some(two)) = (path(name), path(other)) {
                return Err(Error::stop(format!(
                    "{one} and {two} begin with the same line, and one of them was begun by an earlier run that ended before its \
                     first checkpoint: it cannot be told which; move the newer one away for one run"
                )));
            }
        }
    }
    Ok(())
}
