//! The daemon's end: what it is given at its start, and what it asks for later. Every call ends within a bound.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::ENV_SOCKET;
use crate::protocol::{Key, Nonsense, Notice, Request, VERSION};
use crate::socket::{Received, Socket};

/// How long an answer may take; a keeper that replaces itself tries out the next one first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the keeper is of no use.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The variable does not lead to one.
    #[error("{ENV_SOCKET}={0} does not lead to a keeper: {1}; start `bulkhead daemon` without that variable")]
    Variable(String, io::Error),
    /// It cannot be asked.
    #[error("the keeper does not answer: {0}")]
    Io(#[from] io::Error),
    /// It says what makes no sense.
    #[error("the keeper says what makes no sense: {0}")]
    Nonsense(#[from] Nonsense),
    /// It speaks another version.
    #[error(
        "the keeper speaks version {0} of its protocol, and this daemon {VERSION}; stop Bulkhead and start it again"
    )]
    Version(u8),
    /// It has ended.
    #[error("the keeper has ended")]
    Ended,
    /// It refuses.
    #[error("the keeper refuses: {0}")]
    Refused(String),
}

/// What an earlier daemon has left.
#[derive(Debug)]
pub struct Kept {
    /// By what it is known.
    pub key: Key,
    /// What was left with it.
    pub note: Vec<u8>,
    /// The descriptor; `None` if the keeper has let go of it just now.
    pub descriptor: Option<OwnedFd>,
    /// For how long nobody has served it.
    pub unserved: Duration,
}

/// What a daemon is given.
#[derive(Debug)]
pub struct Start {
    /// The way to the keeper.
    pub client: Client,
    /// What was kept.
    pub kept: Vec<Kept>,
    /// How often the keeper has started a daemon, this one included.
    pub starts: u64,
}

/// The way to the keeper.
#[derive(Debug)]
pub struct Client {
    way: Mutex<Way>,
}

#[derive(Debug)]
struct Way {
    socket: Socket,
    number: u64,
}

impl Start {
    /// Takes what the keeper has for this process; `None` if it was not started by one. To be called once.
    pub fn take() -> Result<Option<Self>, ClientError> {
        let Some(value) = std::env::var_os(ENV_SOCKET) else {
            return Ok(None);
        };
        let value = value.to_string_lossy().into_owned();
        let number = value.parse().map_err(io::Error::other);
        let socket = number.and_then(Socket::inherited);
        let socket = socket.map_err(|error| ClientError::Variable(value, error))?;
        Self::receive(socket).map(Some)
    }

    fn receive(socket: Socket) -> Result<Self, ClientError> {
        socket.set_patience(PATIENCE)?;
        let mut all = Vec::new();
        loop {
            let Received::Message(bytes, along) = socket.receive(true)? else {
                return Err(ClientError::Ended);
            };
            match (Notice::decode(&bytes)?, along) {
                (Notice::Kept { key, note, unserved }, descriptor) => all.push(Kept {
                    key,
                    note,
                    descriptor,
                    unserved,
                }),
                (Notice::Ready { version, .. }, _) if version != VERSION => {
                    return Err(ClientError::Version(version));
                }
                (Notice::Ready { starts, .. }, _) => {
                    return Ok(Self {
                        client: Client {
                            way: Mutex::new(Way { socket, number: 0 }),
                        },
                        kept: all,
                        starts,
                    });
                }
                (Notice::Done { .. } | Notice::Refused { .. }, _) => {}
            }
        }
    }
}

impl Client {
    /// Has a descriptor kept, in the place of what has this key.
    pub fn put(
        &self,
        key: &str,
        note: &[u8],
        descriptor: BorrowedFd<'_>,
        served: bool,
        patience: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::Put {
            key: Key::new(key)?,
            note: note.to_vec(),
            served,
            patience,
        };
        self.ask(&request, Some(descriptor))
    }

    /// Has it let go of.
    pub fn forget(&self, key: &str) -> Result<(), ClientError> {
        self.ask(&Request::Drop { key: Key::new(key)? }, None)
    }

    /// Has the keeper replaced by the program that lies in its place now. Everything that is kept stays.
    pub fn reexec(&self) -> Result<(), ClientError> {
        self.ask(&Request::Reexec, None)
    }

    fn ask(&self, request: &Request, along: Option<BorrowedFd<'_>>) -> Result<(), ClientError> {
        // A thread that panicked has left at most an answer behind, which its number tells.
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        way.number += 1;
        let asked = way.number;
        way.socket.send(&request.encode(asked)?, along, true)?;
        loop {
            let Received::Message(bytes, _) = way.socket.receive(true)? else {
                return Err(ClientError::Ended);
            };
            match Notice::decode(&bytes)? {
                Notice::Done { number } if number == asked => return Ok(()),
                Notice::Refused { number, why } if number == asked => return Err(ClientError::Refused(why)),
                // To an earlier request that was not waited for.
                _ => {}
            }
        }
    }
}
