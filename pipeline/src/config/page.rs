//! `docs/settings.md`, made from the list.

use std::fmt::Write;

use super::{Kind, PartKind, Preset, SETTINGS, Setting, Usual};

const HEAD: &str = "\
# Settings

A setting has one name and can be said in these places. `checkpoint_batch_size`, for instance:

| place | as |
| --- | --- |
| flag | `--checkpoint-batch-size 100` |
| variable | `HIGHWATER_CHECKPOINT_BATCH_SIZE=100` |
| file | `checkpoint_batch_size = 100` |
| `--set` | `--set checkpoint_batch_size=100` |

What counts is, in this order: flag, variable, file, preset, what the pipeline's code says, default. `NAME settings` prints what holds
and where each value was said.

The file is `highwater.toml` in the working directory if there is one, or what `--config FILE` names. A key that is no setting is refused,
with its line and the nearest name; so is a value that is not allowed. An unknown `HIGHWATER_` variable is warned of. Times are
written `200ms`, `10s`, `5m`, `1h 30m`. Where the pipeline has a flag of its own by the same name, that one is meant, and the
setting is left to variables and the file.

```toml
preset = \"production\"
workers = 4
timeout = \"30s\"              # of every action

[action.receipt]             # of one
timeout = \"10s\"
max_parallelism = 20

[lookup.customer]
cache_size = 50000
cache_ttl = \"5m\"

[dedup.dedup]
window = \"10m\"
```

Within one place what is said of a part counts more than what is said of all. A part that the pipeline does not have is refused;
`NAME graph` tells the names of the parts.
";

const PRESETS: &str = "
## Presets

`--preset development` is for a desk: little memory, messages for people, quick to stop. `--preset production` is for a server: larger
windows and caches, messages for machines, patient to stop. No preset says how long an attempt may take, how old a row may be or how
long ids are remembered: what depends on the pipeline's work is the pipeline's to say. The size of caches and the interval of
checkpoints take the place of what the code says, since both are about the machine and not about what is right.

";

/// The whole page.
pub fn page() -> String {
    let mut text = HEAD.to_owned();
    let mut heading = "";
    for setting in SETTINGS {
        if setting.heading != heading {
            heading = setting.heading;
            let _ = write!(text, "\n## {heading}\n\n| setting | values | default | meaning |\n| --- | --- | --- | --- |\n");
        }
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", setting.name, values(setting), usual(setting), setting.meaning);
    }
    text += PRESETS;
    text += "| setting | default | development | production |\n| --- | --- | --- | --- |\n";
    for setting in SETTINGS.iter().filter(|setting| setting.development.or(setting.production).is_some()) {
        let preset = |preset| setting.preset(preset).map_or("as by default".to_owned(), |value| format!("`{value}`"));
        let [development, production] = [Preset::Development, Preset::Production].map(preset);
        let _ = writeln!(text, "| `{}` | {} | {development} | {production} |", setting.name, usual(setting));
    }
    text += "\n## Parts\n\n| in the file | settings |\n| --- | --- |\n";
    for kind in PartKind::ALL {
        let own = SETTINGS.iter().filter_map(|setting| setting.part.filter(|(of, _)| *of == kind));
        let own: Vec<String> = own.map(|(_, own)| format!("`{own}`")).collect();
        let _ = writeln!(text, "| `[{}.NAME]` | {} |", kind.word(), own.join(", "));
    }
    text
}

fn usual(setting: &Setting) -> String {
    match setting.usual {
        Usual::Is(value) => format!("`{value}`"),
        Usual::Told(words) => words.to_owned(),
    }
}

fn values(setting: &Setting) -> String {
    match setting.kind {
        Kind::Word(words) => words.iter().map(|(word, meaning)| format!("`{word}`: {meaning}")).collect::<Vec<_>>().join("; "),
        kind => kind.expected().trim_start_matches("expected ").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_file_on_the_page_is_one_that_is_read() {
        let example = super::HEAD.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let (said, problems) = crate::config::file::parse("page", example);
        assert_eq!((said.len(), problems), (8, Vec::new()));
    }
}
