//! The catalogue's copy on disk: one JSON line for each record between a head and a tail with a checksum; written whole
//! beside the old one and renamed. It may be behind the store, never half-written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Contents;
use crate::schema::Timestamp;
use crate::store::{Entry, Event, Revision};

const FORMAT: &str = "bulkhead catalogue 1";
/// The longest line that is read: a record of the largest size, and some.
const MAX_LINE: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    as_of: Timestamp,
    records: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    revision: u64,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    /// FNV-1a over all lines before.
    checksum: u64,
}

/// A writer or reader of lines that keeps the checksum.
struct Sum(u64);

impl Sum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, line: &str) {
        for byte in line.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

pub(super) fn save(path: &Path, lines: &[(String, u64, Bytes)], as_of: SystemTime) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    let mut out = BufWriter::new(file);
    let mut sum = Sum::new();
    let mut write = |text: String| {
        sum.add(&text);
        writeln!(out, "{text}").map(|()| sum.0)
    };
    let head = Head {
        format: FORMAT.to_owned(),
        as_of: Timestamp::from(as_of),
        records: lines.len(),
    };
    let mut checksum = write(serde_json::to_string(&head)?)?;
    for (key, revision, value) in lines {
        let line = Line {
            key: key.clone(),
            revision: *revision,
            value: STANDARD.encode(value),
        };
        checksum = write(serde_json::to_string(&line)?)?;
    }
    writeln!(out, "{}", serde_json::to_string(&Tail { checksum })?)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    // A copy that a power cut takes with it is fetched from the store again; but it must not be half of one.
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// What was saved, and as of when it was true; `None` if nothing was.
pub(super) fn load(path: &Path) -> io::Result<Option<(Contents, SystemTime)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let mut sum = Sum::new();
    let text = next_line(&mut reader)?;
    let head: Head = serde_json::from_str(&text)?;
    if head.format != FORMAT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("its format is `{}`", head.format),
        ));
    }
    sum.add(&text);
    let mut contents = Contents::default();
    for _ in 0..head.records {
        let text = next_line(&mut reader)?;
        sum.add(&text);
        let line: Line = serde_json::from_str(&text)?;
        let value = STANDARD.decode(&line.value).map_err(io::Error::other)?;
        contents.apply(&Event::Put(Entry {
            key: line.key,
            value: Bytes::from(value),
            revision: Revision(line.revision),
        }));
    }
    let tail: Tail = serde_json::from_str(&next_line(&mut reader)?)?;
    if tail.checksum != sum.0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its checksum is wrong",
        ));
    }
    Ok(Some((contents, head.as_of.into())))
}

fn next_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    io::Read::take(reader, MAX_LINE).read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it ends in the middle",
        )),
    }
}
