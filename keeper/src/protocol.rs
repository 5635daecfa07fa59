//! Messages between the daemon and its keeper as bytes, one a datagram. Everything is bounded, and nothing that does not fit
//! exactly is taken.
//!
//! Sixteen bytes come first: kind, flag, length of the key (u16), a small number (u32), a large number (u64), all
//! little-endian; then the key, then the note or text. A descriptor goes along with `Put` and `Kept`, and with nothing else.

use std::time::Duration;

use thiserror::Error;

/// Version of this protocol, which `Ready` tells.
pub const VERSION: u8 = 1;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 64;
/// The longest note, in bytes.
pub const MAX_NOTE: usize = 4096;
/// The longest message.
pub const MAX_MESSAGE: usize = HEADER + MAX_KEY + MAX_NOTE;

const HEADER: usize = 16;

const PUT: u8 = 1;
const DROP: u8 = 2;
const REEXEC: u8 = 3;
const KEPT: u8 = 16;
const READY: u8 = 17;
const DONE: u8 = 18;
const REFUSED: u8 = 19;

/// Why bytes are no message, or cannot be made one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Nonsense {
    /// Too short, too long, or its parts do not add up.
    #[error("a message of {0} bytes whose parts do not add up")]
    Length(usize),
    /// A kind that does not exist.
    #[error("a message of the unknown kind {0}")]
    Kind(u8),
    /// A key that is empty, too long, or not made of letters, digits and dashes.
    #[error("a key has 1 to {MAX_KEY} letters, digits and dashes")]
    Key,
    /// A note that is too long.
    #[error("a note has at most {MAX_NOTE} bytes")]
    Note,
}

/// By what a thing that is kept is known: letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Checks it.
    pub fn new(text: &str) -> Result<Self, Nonsense> {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if text.is_empty() || text.len() > MAX_KEY || !text.bytes().all(sound) {
            return Err(Nonsense::Key);
        }
        Ok(Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the daemon asks. Each has a number, which the answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Keep the descriptor that comes along, in the place of what has this key.
    Put {
        /// By what it is known.
        key: Key,
        /// For the next daemon.
        note: Vec<u8>,
        /// Whether it is being served. Else it still waits for that, as before.
        served: bool,
        /// For how long it may go without being served before it is let go of.
        patience: Duration,
    },
    /// Let go of it.
    Drop {
        /// By what it is known.
        key: Key,
    },
    /// Replace yourself by the executable that is there now.
    Reexec,
}

/// What the keeper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// At the start: this was kept, and here it is.
    Kept {
        /// By what it is known.
        key: Key,
        /// What the daemon before left with it.
        note: Vec<u8>,
        /// For how long nobody has served it.
        unserved: Duration,
    },
    /// At the start, after all that was kept.
    Ready {
        /// The keeper's version of the protocol.
        version: u8,
        /// How much was kept.
        kept: u32,
        /// How often the keeper has started a daemon, this one included.
        starts: u64,
    },
    /// It is done.
    Done {
        /// Which request.
        number: u64,
    },
    /// It is not done.
    Refused {
        /// Which request.
        number: u64,
        /// Why.
        why: String,
    },
}

struct Parts<'a> {
    kind: u8,
    flag: u8,
    small: u32,
    large: u64,
    key: &'a str,
    rest: &'a [u8],
}

impl Parts<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.key.len() + self.rest.len());
        bytes.extend([self.kind, self.flag]);
        bytes.extend((self.key.len() as u16).to_le_bytes());
        bytes.extend(self.small.to_le_bytes());
        bytes.extend(self.large.to_le_bytes());
        bytes.extend(self.key.as_bytes());
        bytes.extend(self.rest);
        bytes
    }

    fn of(bytes: &[u8]) -> Result<Parts<'_>, Nonsense> {
        let wrong = || Nonsense::Length(bytes.len());
        if bytes.len() > MAX_MESSAGE {
            return Err(wrong());
        }
        let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or_else(wrong)?;
        let &[kind, flag, k0, k1, s0, s1, s2, s3, large @ ..] = header;
        let key = usize::from(u16::from_le_bytes([k0, k1]));
        let (key, rest) = body.split_at_checked(key).ok_or_else(wrong)?;
        if rest.len() > MAX_NOTE {
            return Err(Nonsense::Note);
        }
        Ok(Parts {
            kind,
            flag,
            small: u32::from_le_bytes([s0, s1, s2, s3]),
            large: u64::from_le_bytes(large),
            key: str::from_utf8(key).map_err(|_| Nonsense::Key)?,
            rest,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Request {
    /// As bytes.
    pub fn encode(&self, number: u64) -> Result<Vec<u8>, Nonsense> {
        let empty = |kind, key| Parts {
            kind,
            flag: 0,
            small: 0,
            large: number,
            key,
            rest: &[],
        };
        Ok(match self {
            Self::Put { note, .. } if note.len() > MAX_NOTE => return Err(Nonsense::Note),
            Self::Put {
                key,
                note,
                served,
                patience,
            } => Parts {
                kind: PUT,
                flag: u8::from(*served),
                small: u32::try_from(millis(*patience)).unwrap_or(u32::MAX),
                large: number,
                key: &key.0,
                rest: note,
            }
            .bytes(),
            Self::Drop { key } => empty(DROP, &key.0).bytes(),
            Self::Reexec => empty(REEXEC, "").bytes(),
        })
    }

    /// Out of bytes, with its number.
    pub fn decode(bytes: &[u8]) -> Result<(u64, Self), Nonsense> {
        let parts = Parts::of(bytes)?;
        let bare = parts.rest.is_empty();
        let request = match parts.kind {
            PUT if parts.flag <= 1 => Self::Put {
                key: Key::new(parts.key)?,
                note: parts.rest.to_vec(),
                served: parts.flag == 1,
                patience: Duration::from_millis(parts.small.into()),
            },
            DROP if bare => Self::Drop {
                key: Key::new(parts.key)?,
            },
            REEXEC if bare && parts.key.is_empty() => Self::Reexec,
            PUT | DROP | REEXEC => return Err(Nonsense::Length(bytes.len())),
            kind => return Err(Nonsense::Kind(kind)),
        };
        Ok((parts.large, request))
    }

    /// The number of what may be a request, for an answer to it.
    pub(crate) fn number(bytes: &[u8]) -> u64 {
        Parts::of(bytes).map_or(0, |parts| parts.large)
    }
}

impl Notice {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let parts = match self {
            Self::Kept { key, note, unserved } => Parts {
                kind: KEPT,
                flag: 0,
                small: 0,
                large: millis(*unserved),
                key: &key.0,
                rest: note,
            },
            Self::Ready {
                version,
                kept,
                starts,
            } => Parts {
                kind: READY,
                flag: *version,
                small: *kept,
                large: *starts,
                key: "",
                rest: &[],
            },
            Self::Done { number } => Parts {
                kind: DONE,
                flag: 0,
                small: 0,
                large: *number,
                key: "",
                rest: &[],
            },
            Self::Refused { number, why } => Parts {
                kind: REFUSED,
                flag: 0,
                small: 0,
                large: *number,
                key: "",
                rest: &why.as_bytes()[..why.len().min(MAX_NOTE)],
            },
        };
        parts.bytes()
    }

    /// Out of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Nonsense> {
        let parts = Parts::of(bytes)?;
        Ok(match parts.kind {
            KEPT => Self::Kept {
                key: Key::new(parts.key)?,
                note: parts.rest.to_vec(),
                unserved: Duration::from_millis(parts.large),
            },
            READY => Self::Ready {
                version: parts.flag,
                kept: parts.small,
                starts: parts.large,
            },
            DONE => Self::Done { number: parts.large },
            REFUSED => Self::Refused {
                number: parts.large,
                why: String::from_utf8_lossy(parts.rest).into_owned(),
            },
            kind => return Err(Nonsense::Kind(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("0192-ab").unwrap()
    }

    fn requests() -> Vec<Request> {
        vec![
            Request::Put {
                key: key(),
                note: vec![7; MAX_NOTE],
                served: true,
                patience: Duration::from_secs(10),
            },
            Request::Drop { key: key() },
            Request::Reexec,
        ]
    }

    #[test]
    fn what_is_said_is_understood() -> Result<(), Nonsense> {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode(9)?)?, (9, request));
        }
        for notice in [
            Notice::Kept {
                key: key(),
                note: b"{}".to_vec(),
                unserved: Duration::from_millis(1234),
            },
            Notice::Ready {
                version: VERSION,
                kept: 3,
                starts: 8,
            },
            Notice::Done { number: 5 },
            Notice::Refused {
                number: 6,
                why: "no".into(),
            },
        ] {
            assert_eq!(Notice::decode(&notice.encode())?, notice);
        }
        Ok(())
    }

    #[test]
    fn every_damaged_message_is_refused_or_another_one() -> Result<(), Nonsense> {
        for request in requests() {
            let whole = request.encode(1)?;
            for cut in 0..whole.len().min(HEADER + 7) {
                assert!(Request::decode(&whole[..cut]).is_err(), "cut to {cut}");
            }
            for at in 0..HEADER {
                for value in 0..=255 {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    // Must not panic; a changed number is another message.
                    let _ = Request::decode(&bytes);
                    let _ = Notice::decode(&bytes);
                }
            }
        }
        assert_eq!(
            Request::decode(&vec![1; MAX_MESSAGE + 1]),
            Err(Nonsense::Length(MAX_MESSAGE + 1))
        );
        Ok(())
    }

    #[test]
    fn keys_are_tame() {
        for bad in ["", "a b", "a\n", "ä", "../x", &"x".repeat(65)] {
            assert_eq!(Key::new(bad), Err(Nonsense::Key), "{bad:?}");
        }
    }
}
