//! A save as the row that holds the mark: in JSON, so that people can ask for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::text::{bigint, escape, number, unescape};
use crate::checkpoint::store::{CutBackFile, Save};
use crate::error::{Error, Result};
use crate::position::{PartitionId, ResumeToken};

/// The columns of a save, in the order of [`SaveRow::read`].
pub(super) const COLUMNS: &str = "save_number, epoch, mark::text, books::text, files::text, state_from::text, \
                                  state_floor::text, all_ended, saved_generation, \
                                  (extract(epoch from saved_at) * 1000)::bigint";

/// By operator: segments of saves below this number were dropped.
pub(super) type Floor = BTreeMap<String, u64>;

/// What the row says of a save, ready to be written.
#[derive(Clone, Debug)]
pub(super) struct SaveRow {
    pub number: i64,
    pub epoch: i64,
    pub mark: String,
    pub books: String,
    pub files: String,
    pub state_from: String,
    pub state_floor: String,
    pub ended: bool,
}

/// A save as it was read.
pub(super) struct SavedRow {
    pub save: Save,
    pub floor: Floor,
    pub generation: u64,
    pub at_ms: u64,
}

/// A resume token in JSON.
#[derive(Serialize, Deserialize)]
struct Token {
    order: u64,
    /// Hexadecimal: it is the source's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    action: String,
    path: String,
    length: u64,
}

impl SaveRow {
    pub(super) fn of(save: &Save, floor: &Floor) -> Result<SaveRow> {
        let mark: BTreeMap<PartitionId, Token> =
            save.mark.iter().map(|(id, token)| (*id, Token { order: token.order, detail: hex(&token.detail) })).collect();
        let files: Vec<File> = save
            .files
            .iter()
            .map(|file| File {
                action: escape(&file.action).into_owned(),
                path: escape(&file.path).into_owned(),
                length: file.length,
            })
            .collect();
        Ok(SaveRow {
            number: bigint(save.number),
            epoch: bigint(save.epoch),
            mark: json(&mark)?,
            books: json(&escaped(&save.books))?,
            files: json(&files)?,
            state_from: json(&escaped(&save.state_from))?,
            state_floor: json(&escaped(floor))?,
            ended: save.ended,
        })
    }

    /// Reads the columns of [`COLUMNS`], which begin at `at`.
    pub(super) fn read(row: &Row, at: usize) -> Result<Option<SavedRow>> {
        let Some(save_number) = row.get::<_, Option<i64>>(at) else { return Ok(None) };
        let text = |column: usize| row.get::<_, Option<&str>>(at + column).unwrap_or("{}");
        let mark: BTreeMap<PartitionId, Token> = parse(text(2))?;
        let files: Vec<File> = parse(row.get::<_, Option<&str>>(at + 4).unwrap_or("[]"))?;
        let file = |file: File| CutBackFile { action: unescape(&file.action), path: unescape(&file.path), length: file.length };
        let token =
            |(id, token): (PartitionId, Token)| Ok((id, ResumeToken { order: token.order, detail: unhex(&token.detail)? }));
        let save = Save {
            number: number(save_number),
            epoch: number(row.get::<_, Option<i64>>(at + 1).unwrap_or_default()),
            mark: mark.into_iter().map(token).collect::<Result<_>>()?,
            books: unescaped(parse(text(3))?),
            files: files.into_iter().map(file).collect(),
            state_from: unescaped(parse(text(5))?),
            ended: row.get::<_, Option<bool>>(at + 7).unwrap_or_default(),
            ..Save::default()
        };
        Ok(Some(SavedRow {
            save,
            floor: unescaped(parse(text(6))?),
            generation: number(row.get::<_, Option<i64>>(at + 8).unwrap_or_default()),
            at_ms: number(row.get::<_, Option<i64>>(at + 9).unwrap_or_default()),
        }))
    }
}

/// Raises the floor as a save says. Only what was there when it was made is dropped, so no floor lies above the next save.
pub(super) fn raise(floor: &mut Floor, save: &Save) {
    for (operator, from) in &save.state_from {
        let floor = floor.entry(operator.clone()).or_default();
        *floor = (*floor).max((*from).min(save.number + 1));
    }
}

fn escaped(map: &BTreeMap<String, u64>) -> BTreeMap<std::borrow::Cow<'_, str>, u64> {
    map.iter().map(|(name, n)| (escape(name), *n)).collect()
}

fn unescaped(map: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    map.into_iter().map(|(name, n)| (unescape(&name), n)).collect()
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::stop("a save could not be written as JSON").because(error))
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::stop("the row of observer_checkpoints cannot be read: it was changed by hand, or damaged").because(error)
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Bytes> {
    let byte = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.map(Bytes::from).ok_or_else(|| Error::stop(format!("a resume token in observer_checkpoints is no hexadecimal: {text}")))
}
