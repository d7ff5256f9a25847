//! How a launched process hears when to end: by its standard input, which the launcher holds. If the launcher dies it ends too.

use std::io::BufRead;

use crate::run::Control;

/// Says to a process that it was launched, and whether it is the first time.
pub(super) const VARIABLE: &str = "HIGHWATER_LAUNCHED";
pub(super) const FIRST: &str = "first";
pub(super) const AGAIN: &str = "again";

/// The word to finish what is under way.
pub(super) const DRAIN: &str = "drain\n";

/// Whether this process was launched by [`launch`](super).
pub(crate) fn is_launched() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Does what the launcher says, if there is one.
pub(crate) fn obey(control: &Control) {
    if !is_launched() {
        return;
    }
    let control = control.clone();
    let listen = move || {
        for line in std::io::stdin().lock().lines() {
            match line {
                Ok(line) if line == DRAIN.trim_end() => control.stop(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // Told to end at once, or nobody is there any more.
        if !control.abandon() {
            // It has not begun yet, and has nothing to give back.
            std::process::exit(1);
        }
    };
    std::thread::Builder::new().name("leash".to_owned()).spawn(listen).expect("the system gives a thread at start");
}
