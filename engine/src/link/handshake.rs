//! The first words on a connection, both ends (D7): versions, cluster, nodes, replica. Everything by one deadline.

use super::error::ConnectError;
use super::stream::{Control, Stream, WriteHalf};
use crate::format::ReplicaIdentity;
use crate::ids::{ClusterId, NodeId};
use crate::wire::{
    Codec, Decline, DeclineCode, Greeting, GreetingError, Hello, NodeRun, Version, VersionRange, Welcome,
    read_greeting,
};
use std::io::{self, IoSlice, Read};
use std::time::{Duration, Instant};

/// Who this node is.
#[derive(Clone, Copy, Debug)]
pub struct LocalNode {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// This run of its daemon.
    pub run: NodeRun,
    /// The versions that it speaks: [`VersionRange::OURS`].
    pub versions: VersionRange,
    /// Whether it wants checksums of data; they are used if either end wants them.
    pub data_crc: bool,
}

/// Who is at the other end, and how to speak with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Which run of its daemon.
    pub run: NodeRun,
    /// The replica that the connection is about.
    pub replica: ReplicaIdentity,
    /// The version, and whether data carries checksums.
    pub codec: Codec,
}

/// Says hello to node `to`, about `replica`.
pub(super) fn greet(
    stream: &mut Stream,
    local: &LocalNode,
    to: NodeId,
    replica: ReplicaIdentity,
    deadline: Instant,
) -> Result<Peer, ConnectError> {
    let hello = Greeting::Hello(Hello {
        versions: local.versions,
        data_crc: local.data_crc,
        from: local.node,
        run: local.run,
        to,
        replica,
    });
    say(stream, &hello, deadline).map_err(GreetingError::Io)?;
    match hear(stream, deadline)? {
        Greeting::Welcome(welcome) => accept(local, to, replica, &welcome),
        Greeting::Decline(decline) => Err(ConnectError::Declined {
            node: to,
            code: decline.code,
            versions: decline.versions,
            text: decline.text,
        }),
        Greeting::Hello(_) => Err(ConnectError::Unexpected {
            node: to,
            what: "a hello of its own",
        }),
    }
}

fn accept(
    local: &LocalNode,
    to: NodeId,
    replica: ReplicaIdentity,
    welcome: &Welcome,
) -> Result<Peer, ConnectError> {
    if welcome.node != to || welcome.cluster != local.cluster {
        return Err(ConnectError::OtherNode {
            expected: to,
            found: format!("node {} of cluster {}", welcome.node, welcome.cluster),
        });
    }
    let version = Version::from_number(welcome.version)
        .filter(|version| (local.versions.oldest..=local.versions.newest).contains(&version.number()));
    let (Some(version), true) = (version, welcome.data_crc || !local.data_crc) else {
        return Err(ConnectError::Unexpected {
            node: to,
            what: "a way to speak that was not offered",
        });
    };
    Ok(Peer {
        node: welcome.node,
        run: welcome.run,
        replica,
        codec: Codec {
            version,
            data_crc: welcome.data_crc,
        },
    })
}

/// Hears a hello and answers it. `admit` is asked last, about what only the node knows.
pub(super) fn answer<T>(
    stream: &mut Stream,
    local: &LocalNode,
    deadline: Instant,
    admit: impl FnOnce(&Hello) -> Result<T, (DeclineCode, String)>,
) -> Result<(Peer, T), GreetingError> {
    let hello = match hear(stream, deadline) {
        Ok(Greeting::Hello(hello)) => hello,
        Ok(_) => {
            return decline(
                stream,
                local,
                deadline,
                DeclineCode::Malformed,
                "a hello is expected first",
            );
        }
        Err(GreetingError::Value { what, versions }) => {
            let (code, text) = match agree(local, versions) {
                Ok(_) => (
                    DeclineCode::Malformed,
                    format!("the hello holds an impossible {what}"),
                ),
                Err(no) => no,
            };
            return decline(stream, local, deadline, code, &text);
        }
        Err(error) => return Err(error),
    };
    let admitted = check(local, &hello).and_then(|version| Ok((version, admit(&hello)?)));
    let (version, extra) = match admitted {
        Ok(admitted) => admitted,
        Err((code, text)) => return decline(stream, local, deadline, code, &text),
    };
    let data_crc = hello.data_crc || local.data_crc;
    let welcome = Greeting::Welcome(Welcome {
        versions: local.versions,
        version: version.number(),
        data_crc,
        cluster: local.cluster,
        node: local.node,
        run: local.run,
    });
    say(stream, &welcome, deadline)?;
    let peer = Peer {
        node: hello.from,
        run: hello.run,
        replica: hello.replica,
        codec: Codec { version, data_crc },
    };
    Ok((peer, extra))
}

fn agree(local: &LocalNode, theirs: VersionRange) -> Result<Version, (DeclineCode, String)> {
    local.versions.agree(theirs).ok_or_else(|| {
        let (ours, node) = (local.versions, local.node);
        let older = if theirs.newest < ours.oldest { "the node that connects" } else { "this node" };
        let text = format!(
            "no common version: node {node} speaks protocol {ours}, the node that connects {theirs}; upgrade {older}"
        );
        (DeclineCode::Version, text)
    })
}

fn check(local: &LocalNode, hello: &Hello) -> Result<Version, (DeclineCode, String)> {
    let version = agree(local, hello.versions)?;
    if hello.replica.cluster != local.cluster {
        let text = format!(
            "node {} is of cluster {}, not of {}; the address belongs to another cluster",
            local.node, local.cluster, hello.replica.cluster
        );
        return Err((DeclineCode::Cluster, text));
    }
    if hello.to != local.node {
        let text = format!(
            "this is node {}, not {}; the address was given to another node",
            local.node, hello.to
        );
        return Err((DeclineCode::Node, text));
    }
    Ok(version)
}

fn decline<T>(
    stream: &mut Stream,
    local: &LocalNode,
    deadline: Instant,
    code: DeclineCode,
    text: &str,
) -> Result<T, GreetingError> {
    let decline = Greeting::Decline(Decline {
        versions: local.versions,
        code,
        text: text.to_owned(),
    });
    say(stream, &decline, deadline)?;
    Err(GreetingError::Io(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("declined: {text}"),
    )))
}

fn say(stream: &mut Stream, greeting: &Greeting, deadline: Instant) -> io::Result<()> {
    write_by(&mut *stream.write, &*stream.control, &greeting.encode(), deadline)
}

fn hear(stream: &mut Stream, deadline: Instant) -> Result<Greeting, GreetingError> {
    let greeting = read_greeting(&mut ReadBy { stream, deadline })?;
    stream.read.set_timeout(None)?;
    Ok(greeting)
}

/// Reads of which all together end by the deadline, however slowly the bytes come.
struct ReadBy<'a> {
    stream: &'a mut Stream,
    deadline: Instant,
}

impl Read for ReadBy<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.stream.read.set_timeout(Some(remaining(self.deadline)?))?;
        match self.stream.read.read(target) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(late()),
            other => other,
        }
    }
}

fn write_by(
    half: &mut dyn WriteHalf,
    control: &dyn Control,
    mut bytes: &[u8],
    deadline: Instant,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match half.try_write(&[IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                control.wait_writable(remaining(deadline)?)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(late()),
        left => Ok(left),
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the other side did not answer in time")
}
