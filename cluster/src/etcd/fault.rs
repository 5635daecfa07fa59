//! What an error of the etcd client lets us conclude: refused (nothing happened), not sent (nothing happened, another
//! member may be tried), or unknown. When in doubt: unknown.

use std::io;

use etcd_client::Error;

use crate::store::{LeaseId, Revision, StoreError};

/// What may be concluded.
pub(super) enum Fault {
    /// The store answered, and nothing happened.
    Refused(StoreError),
    /// The request did not leave this machine, or was turned away at the door.
    NotSent(String),
    /// It may have been applied.
    Unknown(String),
}

// gRPC's codes, as numbers: the client does not pass its gRPC library on.
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

pub(super) fn classify(store: &str, error: &Error) -> Fault {
    let failed = |reason: String| {
        Fault::Refused(StoreError::Failed {
            store: store.to_owned(),
            reason,
        })
    };
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::LeaseKeepAliveError(text) if text.contains("lease not found") => {
            return Fault::Refused(StoreError::LeaseGone(LeaseId(String::new())));
        }
        Error::TransportError(error) if never_connected(error) => return Fault::NotSent(error.to_string()),
        Error::InvalidArgs(text) => return failed(text.clone()),
        error => return Fault::Unknown(error.to_string()),
    };
    let text = status.message().to_owned();
    match status.code() as i32 {
        NOT_FOUND if text.contains("lease") => Fault::Refused(StoreError::LeaseGone(LeaseId(String::new()))),
        OUT_OF_RANGE if text.contains("compacted") => Fault::Refused(StoreError::Compacted {
            store: store.to_owned(),
            asked: Revision(0),
        }),
        // The store has been restored from an older copy: what we know of it is from another history.
        OUT_OF_RANGE if text.contains("future revision") => Fault::Refused(StoreError::Compacted {
            store: store.to_owned(),
            asked: Revision(0),
        }),
        PERMISSION_DENIED | UNAUTHENTICATED => Fault::Refused(StoreError::Denied {
            store: store.to_owned(),
            reason: text,
        }),
        INVALID_ARGUMENT if text.contains("authentication") || text.contains("user name is empty") => {
            Fault::Refused(StoreError::Denied {
                store: store.to_owned(),
                reason: text,
            })
        }
        INVALID_ARGUMENT | NOT_FOUND | RESOURCE_EXHAUSTED | FAILED_PRECONDITION | OUT_OF_RANGE => {
            failed(text)
        }
        _ if text.contains("etcdserver: no leader") => Fault::NotSent(text),
        _ if never_connected(status) => Fault::NotSent(reason_of(status)),
        _ => Fault::Unknown(reason_of(status)),
    }
}

/// Whether somewhere below lies a connection that never came about.
fn never_connected(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return matches!(
                kind,
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            );
        }
        next = error.source();
    }
    false
}

/// The innermost reason, which says more than "transport error".
fn reason_of(status: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
