//! The scripts: all that a call changes is changed by one, so that a crash leaves each job either before it or after it.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("common.lua"), "\n", include_str!($file))));
    };
}

script!(COUNTS, "counts.lua");
script!(DISCARD, "discard.lua");
script!(EDIT, "edit.lua");
script!(ENQUEUE, "enqueue.lua");
script!(PARKED, "parked.lua");
script!(RENEW, "renew.lua");
script!(RETRY, "retry.lua");
script!(SETTLE, "settle.lua");
script!(TAKE, "take.lua");
