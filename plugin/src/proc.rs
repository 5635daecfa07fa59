//! What the kernel tells of a process in `/proc`.

use std::fs;

/// A field of `/proc/PID/stat`, counted from the one behind the name, which may itself hold blanks: 0 is the state, 1 the parent,
/// 19 when it was started.
pub(crate) fn stat(pid: u32, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(field).map(str::to_owned)
}
