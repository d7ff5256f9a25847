//! A row as a value of a tier: compact, and read without making its names anew.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::change::Found;
use crate::row::Fields;

/// First bytes of a value: there is no such row; there is, in this form.
const NOTHING: u8 = 0;
const ROW: u8 = 1;

/// The names of rows. Those of an origin are nearly always the same, and shared by all its rows.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    bytes: Arc<[u8]>,
    names: Arc<[Box<str>]>,
}

pub(crate) fn encode(row: Option<&Fields>) -> Vec<u8> {
    let Some(row) = row else { return vec![NOTHING] };
    let (names, (text, ends)) = (row.names(), row.values());
    let names = postcard::to_stdvec(names).unwrap_or_default();
    let mut bytes = Vec::with_capacity(1 + 5 + names.len() + text.len() + 4 * ends.len() + 8);
    bytes.push(ROW);
    bytes.extend_from_slice(&(names.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&names);
    // Memory takes what is written.
    postcard::to_extend(&(text, ends), bytes).unwrap_or_default()
}

/// Keys with their rows, and the keys that are to be asked for elsewhere.
pub(crate) type Sorted = (Vec<(String, Arc<Found>)>, Vec<String>);

impl Names {
    /// What a tier's values, one for each key, mean to the lookup of this name.
    pub(crate) fn sort<'a>(
        &self,
        lookup: &Arc<str>,
        keys: Vec<String>,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Sorted {
        let (mut found, mut missing) = (Vec::with_capacity(keys.len()), Vec::new());
        for (key, row) in keys.into_iter().zip(self.decode_all(values)) {
            match row {
                Some(Some(row)) => found.push((key, Arc::new(Found::row_of(lookup.clone(), row)))),
                Some(None) => found.push((key, Arc::new(Found::nothing(lookup.clone())))),
                None => missing.push(key),
            }
        }
        (found, missing)
    }

    /// Rows of values, `None` where one cannot be read: another version's, or somebody else's.
    fn decode_all<'a>(&self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<Option<Option<Fields>>> {
        let mut known = self.0.lock().clone();
        let rows = values.map(|value| decode(value?, &mut known)).collect();
        *self.0.lock() = known;
        rows
    }
}

fn decode(value: &[u8], known: &mut Known) -> Option<Option<Fields>> {
    match value.split_first()? {
        (&NOTHING, []) => Some(None),
        (&ROW, rest) => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (names, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            if *known.bytes != *names {
                *known = Known { bytes: names.into(), names: postcard::from_bytes(names).ok()? };
            }
            let (text, ends) = postcard::from_bytes(rest).ok()?;
            Fields::from_parts(known.names.clone(), text, ends).map(Some)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(values: &[&[u8]]) -> Vec<Option<Option<Fields>>> {
        Names::default().decode_all(values.iter().map(|value| Some(*value)))
    }

    #[test]
    fn rows_survive_their_encoding() {
        let row = |fields: [(&'static str, Option<&str>); 2]| Fields::new(fields);
        let rows = [
            row([("id", Some("7")), ("name", Some("Ada"))]),
            row([("id", Some("8")), ("name", None)]),
            row([("other", Some("")), ("names", Some("ä"))]),
            Fields::new::<&str, &str>([]),
        ];
        let values: Vec<Vec<u8>> = rows.iter().map(|row| encode(Some(row))).collect();
        let found = decoded(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(found, rows.map(|row| Some(Some(row))));
        assert_eq!(decoded(&[&encode(None)]), [Some(None)]);
    }

    #[test]
    fn what_is_not_ours_is_no_row() {
        let good = encode(Some(&Fields::new([("a", Some("bcd"))])));
        for cut in 0..good.len() {
            assert_eq!(decoded(&[&good[..cut]]), [None], "cut at {cut}");
        }
        let mut wild = good.clone();
        for at in 0..wild.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                wild.copy_from_slice(&good);
                wild[at] = byte;
                // Whatever comes of it, it is a row that can be read, or none.
                if let [Some(Some(row))] = decoded(&[&wild]).as_slice() {
                    let _ = format!("{row:?}");
                }
            }
        }
        assert_eq!(decoded(&[b"", b"2", b"\x00x", b"hello"]), [None, None, None, None]);
    }
}
