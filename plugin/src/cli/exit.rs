//! How a command ends: exit codes that mean something, and errors that say what to do.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_engine::disk::DiskError;
use thiserror::Error;

use crate::api::{ErrorCode, ErrorDetail};
use crate::config::ConfigError;
use crate::options::OptionErrors;

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// Tried, and did not work.
    Failed = 1,
    /// Not understood.
    Usage = 2,
    /// No daemon.
    Unreachable = 3,
    /// No such thing.
    NotFound = 4,
    /// A status found something wrong.
    Unhealthy = 5,
    /// Refused.
    Refused = 6,
}

impl Code {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::NotFound,
        Self::Unhealthy,
        Self::Refused,
    ];

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "it was tried and did not work",
            Self::Usage => "the command, an option or a setting is not understood; nothing was done",
            Self::Unreachable => "the daemon does not run or is not ready",
            Self::NotFound => "there is no such volume, pool, node, storage class, token or replica",
            Self::Unhealthy => {
                "a status, `alerts`: something needs attention; `volume verify`: members differ"
            }
            Self::Refused => "refused: it is in use, exists and differs, or there is no room",
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command did not work.
#[derive(Debug, Error)]
pub enum CliError {
    /// Nobody answers.
    #[error(
        "the daemon does not run: nothing answers at {socket} ({error}). Start it with `systemctl start bulkhead` or `bulkhead daemon`, or name its socket with --socket"
    )]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        error: String,
    },
    /// It did not answer in time.
    #[error(
        "the daemon at {socket} did not answer within {seconds} s; what was asked for may still be under way"
    )]
    Timeout {
        /// Where it is.
        socket: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// It answered something that is no answer.
    #[error(
        "the daemon at {socket} gave no proper answer ({detail}); are it and this command of the same version?"
    )]
    Garbled {
        /// Where it is.
        socket: PathBuf,
        /// What was wrong.
        detail: String,
    },
    /// It said no.
    #[error("{}", .0.message)]
    Daemon(ErrorDetail),
    /// An option is wrong.
    #[error("{0}")]
    Options(#[from] OptionErrors),
    /// An argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// A replica's files cannot be read.
    #[error(transparent)]
    Replica(#[from] DiskError),
    /// Somebody has it open.
    #[error(
        "the replica in {} is open: its files change while they are read. Stop what uses the volume, or see `bulkhead volume inspect`, which asks the daemon that has it open",
        .0.display()
    )]
    Open(PathBuf),
    /// There is none.
    #[error("there is no replica in {}; {hint}", path.display())]
    NoReplica {
        /// Where.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// Something is in the way.
    #[error("{0}")]
    Refused(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon has ended while it was listened to.
    #[error("the daemon has ended; `systemctl status bulkhead` says why")]
    Ended,
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    /// The exit code for it.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } | Self::Ended => Code::Unreachable,
            Self::Options(_) | Self::Usage(_) | Self::Config(_) => Code::Usage,
            Self::Timeout { .. }
            | Self::Garbled { .. }
            | Self::Replica(_)
            | Self::Output(_)
            | Self::Failed(_) => Code::Failed,
            Self::Open(_) | Self::Refused(_) => Code::Refused,
            Self::NoReplica { .. } => Code::NotFound,
            Self::Daemon(detail) => match detail.code {
                ErrorCode::NotFound => Code::NotFound,
                ErrorCode::Conflict | ErrorCode::Busy | ErrorCode::NoSpace => Code::Refused,
                ErrorCode::Invalid => Code::Usage,
                ErrorCode::Unauthorized | ErrorCode::Forbidden => Code::Refused,
                ErrorCode::Unavailable => Code::Unreachable,
                ErrorCode::Failed => Code::Failed,
            },
        }
    }
}
