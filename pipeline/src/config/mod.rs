//! Every setting in one list, and where its value comes from.
//!
//! [`list::SETTINGS`] names each setting once. Flags, `HIGHWATER_*` variables, the keys of the file, `--help`, the command
//! `settings` and `docs/settings.md` are made from it. What is said in several places counts in this order: flag, variable,
//! file, preset, what the pipeline's code says, default.

pub(crate) mod file;
pub(crate) mod flags;
mod list;
mod nearest;
pub mod page;
pub(crate) mod resolve;
pub mod tuning;
mod value;

pub use self::list::{PartKind, Preset, SETTINGS, Setting, Usual, setting};
pub use self::nearest::nearest;
pub use self::value::{Kind, Listen, Value};

use std::fmt;

/// Where a value was said. The later ones in this list count more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The pipeline's code.
    Pipeline,
    /// A preset, by name.
    Preset(&'static str),
    /// A file, and the line in it.
    File(String, usize),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl Origin {
    /// How much it counts: flags most.
    fn rank(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::Pipeline => 1,
            Origin::Preset(_) => 2,
            Origin::File(..) => 3,
            Origin::Variable(_) => 4,
            Origin::Flag(_) => 5,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Pipeline => f.write_str("the pipeline's code"),
            Origin::Preset(name) => write!(f, "preset {name}"),
            Origin::File(file, line) => write!(f, "{file}, line {line}"),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}
