//! The file of settings: TOML, each key told with its line.

use std::path::Path;

use highwater_operators::{Error, Result};
use toml::de::{DeTable, DeValue};

use super::resolve::Said;
use super::{Origin, PartKind, SETTINGS, nearest, setting};

/// The file that is read when none is named.
pub(crate) const USUAL: &str = "highwater.toml";

/// Reads a file of settings: what it says, and what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<(Vec<Said>, Vec<String>)> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::stop(format!("cannot read the settings in {}", path.display())).because(error))?;
    Ok(parse(&path.display().to_string(), &text))
}

/// Reads the text of a file of settings.
pub(crate) fn parse(file: &str, text: &str) -> (Vec<Said>, Vec<String>) {
    let mut reader = Reader { file, text, said: Vec::new(), problems: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reader.whole(table.get_ref()),
        Err(error) => {
            let line = reader.line(error.span().map_or(0, |span| span.start));
            reader.problems.push(format!("{file}, line {line}: {}", error.message()));
        }
    }
    (reader.said, reader.problems)
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    said: Vec<Said>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn line(&self, place: usize) -> usize {
        self.text.as_bytes()[..place.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn wrong(&mut self, place: usize, what: impl std::fmt::Display) {
        let line = self.line(place);
        self.problems.push(format!("{}, line {line}: {what}", self.file));
    }

    fn whole(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let (name, place) = (key.get_ref().as_ref(), key.span().start);
            let kind = PartKind::ALL.into_iter().find(|kind| kind.word() == name);
            match (kind, setting(name), value.get_ref()) {
                (Some(kind), _, DeValue::Table(parts)) => self.parts(kind, parts),
                (Some(kind), _, _) => {
                    let word = kind.word();
                    self.wrong(place, format!("\"{word}\" is a heading; write [{word}.NAME] with its settings below"));
                }
                (None, Some(setting), _) if setting.name == "config" => {
                    self.wrong(place, "\"config\" names this file, and cannot be said in it");
                }
                (None, Some(setting), value) => self.say(None, setting.name, place, value),
                (None, None, _) => {
                    let names = SETTINGS.iter().map(|setting| setting.name).chain(PartKind::ALL.map(PartKind::word));
                    let hint = match nearest(name, names) {
                        Some(near) => format!("did you mean \"{near}\"?"),
                        None => "the command `settings` lists them all".to_owned(),
                    };
                    self.wrong(place, format!("unknown setting \"{name}\"; {hint}"));
                }
            }
        }
    }

    fn parts(&mut self, kind: PartKind, parts: &DeTable<'_>) {
        let word = kind.word();
        for (part, value) in parts {
            let (name, place) = (part.get_ref().as_ref(), part.span().start);
            let DeValue::Table(settings) = value.get_ref() else {
                self.wrong(place, format!("[{word}] holds no settings of its own; write [{word}.NAME] with its settings below"));
                continue;
            };
            for (key, value) in settings {
                let place = key.span().start;
                match of_part(kind, key.get_ref()) {
                    Ok(setting) => self.say(Some((kind, name.to_owned())), setting, place, value.get_ref()),
                    Err(problem) => self.wrong(place, problem),
                }
            }
        }
    }

    fn say(&mut self, part: Option<(PartKind, String)>, name: &'static str, place: usize, value: &DeValue<'_>) {
        let text = match value {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Boolean(on) => on.to_string(),
            DeValue::Integer(number) => number.to_string(),
            other => {
                return self.wrong(place, format!("\"{name}\" cannot be {}", other.type_str()));
            }
        };
        let origin = Origin::File(self.file.to_owned(), self.line(place));
        match Said::parse(part, name, &text, origin) {
            Ok(said) => self.said.push(said),
            Err(problem) => self.problems.push(problem),
        }
    }
}

/// The setting that goes by this name within a part of this kind.
pub(crate) fn of_part(kind: PartKind, name: &str) -> Result<&'static str, String> {
    let of_kind = || SETTINGS.iter().filter_map(|setting| Some((setting.name, setting.part?)));
    let own = || of_kind().filter(|(_, part)| part.0 == kind);
    if let Some((setting, _)) = own().find(|(_, part)| part.1 == name) {
        return Ok(setting);
    }
    let hint = match nearest(name, own().map(|(_, part)| part.1)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("it has: {}", own().map(|(_, part)| part.1).collect::<Vec<_>>().join(", ")),
    };
    let (word, article) = (kind.word(), if kind == PartKind::Action { "an" } else { "a" });
    Err(format!("unknown setting \"{name}\" of {article} {word}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_all_at_once_with_file_line_and_the_nearest_name() {
        let text = "workers = 2\nchekpoint_batch_size = 5\nlog = \"jsn\"\n\n[action.receipt]\ntimout = \"10s\"\ntimeout = 3.5\n[actoin.x]\na=1\n";
        let (said, problems) = parse("my.toml", text);
        assert_eq!(said.len(), 1);
        let expected = [
            "my.toml, line 2: unknown setting \"chekpoint_batch_size\"; did you mean \"checkpoint_batch_size\"?",
            "my.toml, line 3: wrong value \"jsn\" for log: expected one of: text, json; did you mean \"json\"?",
            "my.toml, line 6: unknown setting \"timout\" of an action; did you mean \"timeout\"?",
            "my.toml, line 7: \"timeout\" cannot be float",
            "my.toml, line 8: unknown setting \"actoin\"; did you mean \"action\"?",
        ];
        let mut problems = problems;
        problems.sort();
        assert_eq!(problems, expected);
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let (_, problems) = parse("my.toml", "workers = 2\nlog = \n");
        assert!(problems[0].starts_with("my.toml, line 2: "), "{problems:?}");
    }
}
