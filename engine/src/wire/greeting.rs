//! The handshake: who speaks to whom, and in which version. Its layout never changes, so that any two versions
//! understand at least why they do not understand each other; bodies may only grow at their end.

use super::codec::presentable;
use super::{MAX_TEXT, VersionRange};
use crate::format::ReplicaIdentity;
use crate::ids::{ClusterId, NodeId, ReplicaId, VolumeId};
use std::fmt;
use std::io::{self, Read};
use thiserror::Error;

/// Every handshake message starts with these eight bytes.
pub const GREETING_MAGIC: [u8; 8] = *b"bulkhead";
/// The longest body of a handshake message, in bytes.
pub const MAX_GREETING_BODY: usize = 1024;

const PREFIX_LEN: usize = 20;
const FLAG_DATA_CRC: u8 = 1;
const PURPOSE_REPLICA: u8 = 1;

/// One run of a node's daemon, drawn at its start: tells a restart from a broken connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeRun(pub u128);

impl fmt::Debug for NodeRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeRun({:032x})", self.0)
    }
}

/// What the node that connects says: a primary, to one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions that it speaks.
    pub versions: VersionRange,
    /// Whether it wants checksums of data.
    pub data_crc: bool,
    /// Who it is.
    pub from: NodeId,
    /// Which run of it.
    pub run: NodeRun,
    /// The node that it means to speak to.
    pub to: NodeId,
    /// The replica that it means (D7).
    pub replica: ReplicaIdentity,
}

/// What the node that was connected to answers if all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The versions that it speaks.
    pub versions: VersionRange,
    /// The version that is spoken from here on.
    pub version: u16,
    /// Whether data carries checksums from here on.
    pub data_crc: bool,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub node: NodeId,
    /// Which run of it.
    pub run: NodeRun,
}

/// What the node that was connected to answers otherwise; it closes the connection then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decline {
    /// The versions that it speaks.
    pub versions: VersionRange,
    /// Why, for a program.
    pub code: DeclineCode,
    /// Why, for a person.
    pub text: String,
}

/// Why a handshake is declined, as far as a program has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclineCode {
    /// No version is spoken by both.
    Version,
    /// The nodes are of different clusters.
    Cluster,
    /// The node is another one than the one that is meant.
    Node,
    /// The node has no such replica, or does not serve it.
    Replica,
    /// The node has too many connections.
    Busy,
    /// The hello could not be understood.
    Malformed,
    /// A reason that this program does not know.
    Unknown(u16),
}

impl DeclineCode {
    const fn number(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::Cluster => 2,
            Self::Node => 3,
            Self::Replica => 4,
            Self::Busy => 5,
            Self::Malformed => 6,
            Self::Unknown(number) => number,
        }
    }

    const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Version,
            2 => Self::Cluster,
            3 => Self::Node,
            4 => Self::Replica,
            5 => Self::Busy,
            6 => Self::Malformed,
            other => Self::Unknown(other),
        }
    }
}

/// A message of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The first word, by the one that connects.
    Hello(Hello),
    /// Yes.
    Welcome(Welcome),
    /// No.
    Decline(Decline),
}

/// Why bytes are not a message of the handshake.
#[derive(Debug, Error)]
pub enum GreetingError {
    /// The stream failed, or ended too early.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something else speaks there.
    #[error("what answers there is no Bulkhead node")]
    Magic,
    /// Damaged on its way.
    #[error("a message of the handshake is damaged (checksum)")]
    Checksum,
    /// Longer than any version makes it.
    #[error("a message of the handshake has {0} bytes, the most is {MAX_GREETING_BODY}")]
    TooLong(usize),
    /// Shorter than every version makes it.
    #[error("a message of the handshake ends too early")]
    Short,
    /// Of no known type, or with an impossible value. The peer's versions are known all the same.
    #[error(
        "a message of the handshake holds an impossible {what} (the other side speaks protocol {versions})"
    )]
    Value {
        /// What.
        what: &'static str,
        /// What the peer speaks.
        versions: VersionRange,
    },
}

impl Greeting {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(128);
        let (number, versions) = match self {
            Self::Hello(hello) => {
                body.extend_from_slice(&[PURPOSE_REPLICA, u8::from(hello.data_crc), 0, 0]);
                body.extend_from_slice(&hello.replica.cluster.to_bytes());
                body.extend_from_slice(&hello.from.to_bytes());
                body.extend_from_slice(&hello.run.0.to_le_bytes());
                body.extend_from_slice(&hello.to.to_bytes());
                body.extend_from_slice(&hello.replica.volume.to_bytes());
                body.extend_from_slice(&hello.replica.replica.to_bytes());
                (1, hello.versions)
            }
            Self::Welcome(welcome) => {
                body.extend_from_slice(&welcome.version.to_le_bytes());
                body.extend_from_slice(&[u8::from(welcome.data_crc), 0]);
                body.extend_from_slice(&welcome.cluster.to_bytes());
                body.extend_from_slice(&welcome.node.to_bytes());
                body.extend_from_slice(&welcome.run.0.to_le_bytes());
                (2, welcome.versions)
            }
            Self::Decline(decline) => {
                let text = presentable(&decline.text);
                body.extend_from_slice(&decline.code.number().to_le_bytes());
                body.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
                body.extend_from_slice(text.as_bytes());
                (3, decline.versions)
            }
        };
        let mut bytes = Vec::with_capacity(PREFIX_LEN + body.len());
        bytes.extend_from_slice(&GREETING_MAGIC);
        bytes.extend_from_slice(&u16::to_le_bytes(number));
        bytes.extend_from_slice(&versions.oldest.to_le_bytes());
        bytes.extend_from_slice(&versions.newest.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &body);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn decode(number: u16, versions: VersionRange, body: &[u8]) -> Result<Self, GreetingError> {
        let mut take = Body(body);
        let value = |what| GreetingError::Value { what, versions };
        if versions.oldest == 0 || versions.oldest > versions.newest {
            return Err(value("range of versions"));
        }
        Ok(match number {
            1 => {
                let [purpose, flags, _, _] = take.array()?;
                if purpose != PURPOSE_REPLICA {
                    return Err(value("purpose"));
                }
                let cluster = ClusterId::from_bytes(take.array()?);
                Self::Hello(Hello {
                    versions,
                    data_crc: flags & FLAG_DATA_CRC != 0,
                    from: NodeId::from_bytes(take.array()?),
                    run: NodeRun(u128::from_le_bytes(take.array()?)),
                    to: NodeId::from_bytes(take.array()?),
                    replica: ReplicaIdentity {
                        cluster,
                        volume: VolumeId::from_bytes(take.array()?),
                        replica: ReplicaId::from_bytes(take.array()?),
                    },
                })
            }
            2 => {
                let version = u16::from_le_bytes(take.array()?);
                let [flags, _] = take.array()?;
                Self::Welcome(Welcome {
                    versions,
                    version,
                    data_crc: flags & FLAG_DATA_CRC != 0,
                    cluster: ClusterId::from_bytes(take.array()?),
                    node: NodeId::from_bytes(take.array()?),
                    run: NodeRun(u128::from_le_bytes(take.array()?)),
                })
            }
            3 => {
                let code = DeclineCode::from_number(u16::from_le_bytes(take.array()?));
                let len = usize::from(u16::from_le_bytes(take.array()?)).min(MAX_TEXT);
                let text = take.0.get(..len).ok_or(GreetingError::Short)?;
                Self::Decline(Decline {
                    versions,
                    code,
                    text: presentable(&String::from_utf8_lossy(text)),
                })
            }
            _ => return Err(value("type")),
        })
    }
}

/// Reads exactly one message of the handshake; leaves what follows it in the stream.
pub fn read_greeting(stream: &mut impl Read) -> Result<Greeting, GreetingError> {
    let mut prefix = [0; PREFIX_LEN];
    // Something that is not a node may send less than a prefix and wait: the magic number is looked at first.
    stream.read_exact(&mut prefix[..GREETING_MAGIC.len()])?;
    if prefix[..GREETING_MAGIC.len()] != GREETING_MAGIC {
        return Err(GreetingError::Magic);
    }
    stream.read_exact(&mut prefix[GREETING_MAGIC.len()..])?;
    let field = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
    let versions = VersionRange {
        oldest: field(10),
        newest: field(12),
    };
    let len = usize::from(field(14));
    if len > MAX_GREETING_BODY {
        return Err(GreetingError::TooLong(len));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    let crc = u32::from_le_bytes([prefix[16], prefix[17], prefix[18], prefix[19]]);
    if crc32c::crc32c_append(crc32c::crc32c(&prefix[..16]), &body) != crc {
        return Err(GreetingError::Checksum);
    }
    Greeting::decode(field(8), versions, &body)
}

/// The body of a message; what a newer version has appended is left over.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], GreetingError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(GreetingError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }
}
