//! Processes that a process has started.

/// The processes that this one has started and that live.
pub(super) fn children(of: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| parent(*pid) == Some(of)).collect()
}

/// A living process' parent.
fn parent(pid: u32) -> Option<u32> {
    let (state, parent) = stat(pid)?;
    (state != "Z").then_some(parent)
}

/// Whether the process lives. One that is only waiting to be noticed by its parent does not.
pub(super) fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may have spaces and brackets in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
