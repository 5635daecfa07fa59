//! What a keeper leaves to the one that it becomes: lines of text in a file without a name. The next one may be of
//! another version, newer or older, so nothing in it may ever change its meaning; lines that are not known are an error.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use crate::launch::set_inherited;
use crate::protocol::{Key, MAX_NOTE};
use crate::socket::{Socket, inherit};
use crate::table::{Entry, MAX_KEPT, Table};

const HEAD: &str = "bulkhead-keeper 1";
/// The longest state: every place taken, and every note as long as it may be.
const LONGEST: u64 = (MAX_KEPT * (2 * MAX_NOTE + 256)) as u64;

/// What goes over.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) table: Table,
    /// The daemon, the way to it, and since when it runs.
    pub(crate) child: Option<(Pid, Socket, u64)>,
    pub(crate) starts: u64,
    pub(crate) deaths: u32,
    /// The request that is answered once this is done.
    pub(crate) asked: u64,
}

/// The parts of a state, before its descriptors are taken over.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts {
    child: Option<(i32, RawFd, u64)>,
    starts: u64,
    deaths: u32,
    asked: u64,
    kept: Vec<Line>,
}

/// One thing that is kept, as it is written down.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    descriptor: RawFd,
    patience: u64,
    unserved_since: Option<u64>,
    key: Key,
    note: Vec<u8>,
}

impl State {
    /// Writes it down.
    pub(crate) fn write(&self) -> io::Result<File> {
        let mut text = format!(
            "{HEAD}\nstarts {}\ndeaths {}\nasked {}\n",
            self.starts, self.deaths, self.asked
        );
        if let Some((pid, socket, since)) = &self.child {
            let _ = writeln!(text, "child {pid} {} {since}", socket.as_fd().as_raw_fd());
        }
        for (key, entry) in self.table.iter() {
            let since = entry
                .unserved_since
                .map_or("-".to_owned(), |since| since.to_string());
            let _ = write!(
                text,
                "kept {} {} {since} {} ",
                entry.descriptor.as_raw_fd(),
                entry.patience,
                key.as_str()
            );
            for byte in &entry.note {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        let mut file = File::from(memfd_create(c"bulkhead-keeper", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    }

    /// Lets the descriptors in it go over to the next program, or not.
    pub(crate) fn pass_on(&self, passed: bool) -> io::Result<()> {
        for (_, entry) in self.table.iter() {
            set_inherited(entry.descriptor.as_raw_fd(), passed)?;
        }
        if let Some((_, socket, _)) = &self.child {
            set_inherited(socket.as_fd().as_raw_fd(), passed)?;
        }
        Ok(())
    }

    /// Takes over what another keeper has left behind this descriptor.
    pub(crate) fn take_over(number: RawFd) -> io::Result<Self> {
        let parts = read(number)?;
        let mut state = Self {
            starts: parts.starts,
            deaths: parts.deaths,
            asked: parts.asked,
            ..Self::default()
        };
        if let Some((pid, socket, since)) = parts.child {
            state.child = Some((Pid::from_raw(pid), Socket::inherited(socket)?, since));
        }
        for line in parts.kept {
            let entry = Entry {
                descriptor: inherit(line.descriptor)?,
                note: line.note,
                patience: line.patience,
                unserved_since: line.unserved_since,
            };
            state.table.restore(line.key, entry);
        }
        Ok(state)
    }
}

/// Whether this program could take over what is behind this descriptor.
pub(crate) fn is_understood(number: RawFd) -> bool {
    read(number).is_ok()
}

fn read(number: RawFd) -> io::Result<Parts> {
    let mut file = File::from(inherit(number)?);
    let mut text = String::new();
    file.rewind()?;
    (&mut file).take(LONGEST + 1).read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::other("what the keeper before has left is not understood"))
}

fn parse(text: &str) -> Option<Parts> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return None;
    }
    let mut parts = Parts::default();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["starts", number] => parts.starts = number.parse().ok()?,
            ["deaths", number] => parts.deaths = number.parse().ok()?,
            ["asked", number] => parts.asked = number.parse().ok()?,
            ["child", pid, socket, since] => {
                let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
                parts.child = Some((pid, socket.parse().ok()?, since.parse().ok()?));
            }
            ["kept", descriptor, patience, since, key, note] => {
                let since = match since {
                    "-" => None,
                    since => Some(since.parse().ok()?),
                };
                parts.kept.push(Line {
                    descriptor: descriptor.parse().ok()?,
                    patience: patience.parse().ok()?,
                    unserved_since: since,
                    key: Key::new(key).ok()?,
                    note: unhex(note)?,
                });
            }
            _ => return None,
        }
    }
    (parts.kept.len() <= MAX_KEPT).then_some(parts)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 2 * MAX_NOTE {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_written_is_read() -> io::Result<()> {
        let (one, other) = Socket::pair()?;
        let mut state = State {
            child: Some((Pid::from_raw(42), one, 7)),
            starts: 3,
            deaths: 1,
            asked: 99,
            ..State::default()
        };
        for (key, note) in [("a-1", &b"{\"x\": \"\xff\n\"}"[..]), ("b", b"")] {
            let descriptor = other.as_fd().try_clone_to_owned()?;
            state
                .table
                .put(
                    Key::new(key).unwrap(),
                    descriptor,
                    note.to_vec(),
                    true,
                    Duration::from_secs(9),
                )
                .unwrap();
        }
        state.table.orphan(1234);
        let mut text = String::new();
        state.write()?.read_to_string(&mut text)?;
        let parts = parse(&text).ok_or_else(|| io::Error::other(text.clone()))?;
        assert_eq!((parts.starts, parts.deaths, parts.asked), (3, 1, 99));
        assert_eq!(parts.child.map(|(pid, _, since)| (pid, since)), Some((42, 7)));
        let kept: Vec<_> = parts
            .kept
            .iter()
            .map(|line| {
                (
                    line.patience,
                    line.unserved_since,
                    line.key.as_str(),
                    line.note.as_slice(),
                )
            })
            .collect();
        assert_eq!(
            kept,
            [
                (9000, Some(1234), "a-1", &b"{\"x\": \"\xff\n\"}"[..]),
                (9000, Some(1234), "b", b"")
            ]
        );
        Ok(())
    }

    #[test]
    fn nonsense_is_not_understood() {
        for text in [
            "",
            "bulkhead-keeper 2\n",
            "bulkhead-keeper 1\nchild 0 3 4\n",
            "bulkhead-keeper 1\nchild x 3 4\n",
            "bulkhead-keeper 1\nkept 5 1 - k 0\n",
            "bulkhead-keeper 1\nkept 5 1 - k zz\n",
            "bulkhead-keeper 1\nkept 5 1 - ../k 00\n",
            "bulkhead-keeper 1\nfuture 1\n",
            "bulkhead-keeper 1\nstarts -1\n",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("bulkhead-keeper 1\n"), Some(Parts::default()));
    }
}
