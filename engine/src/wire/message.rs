//! A message as a frame and back: which codec the two nodes agreed on, and the frames of the connection itself.

use super::codec::{Put, Take, presentable};
use super::{Frame, HEADER_LEN, Header, Kind, MAX_TEXT, Version, WireError};
use crate::machine::Payload;
use crate::machine::protocol::{Reply, Request, RequestId};
use std::ops::Deref;

/// Anything that travels in a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<P> {
    /// From the primary to the replica.
    Request(RequestId, Request<P>),
    /// From the replica to the primary.
    Reply(RequestId, Reply<P>),
    /// Between the two ends of the connection.
    Control(Control),
}

/// What the ends of a connection say to each other. No machine hears of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Are you there? To be answered with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// The sender closes the connection.
    Farewell {
        /// Why, for a program.
        code: FarewellCode,
        /// Why, for a person.
        text: String,
    },
}

/// Why a peer closes a connection, as far as a program has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarewellCode {
    /// It was asked to.
    Asked,
    /// This end broke the protocol.
    Violation,
    /// This end was silent, did not answer or did not read in time.
    Late,
    /// Another reason; the text says which.
    Other,
}

impl FarewellCode {
    const fn number(self) -> u16 {
        match self {
            Self::Asked => 1,
            Self::Violation => 2,
            Self::Late => 3,
            Self::Other => 4,
        }
    }

    const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Asked),
            2 => Some(Self::Violation),
            3 => Some(Self::Late),
            4 => Some(Self::Other),
            _ => None,
        }
    }
}

/// How the two ends of a connection agreed to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    /// The version of the protocol.
    pub version: Version,
    /// Whether data carries a CRC32C.
    pub data_crc: bool,
}

/// What a part of the encoder hands back: the type, the request and the data. The metadata is appended by it.
pub(super) type Parts<'a, P> = (Kind, u64, Option<&'a P>);

impl Codec {
    /// The frame of a message. The data is shared, not copied.
    pub fn encode<P: Payload + Deref<Target = [u8]>>(
        self,
        message: &Message<P>,
    ) -> Result<Frame<P>, WireError> {
        match message {
            Message::Request(id, request) => self.encode_request(*id, request),
            Message::Reply(id, reply) => self.encode_reply(*id, reply),
            Message::Control(control) => self.encode_control(control),
        }
    }

    /// The frame of a request.
    pub fn encode_request<P: Payload + Deref<Target = [u8]>>(
        self,
        id: RequestId,
        request: &Request<P>,
    ) -> Result<Frame<P>, WireError> {
        self.frame(|put| {
            super::request::encode(self.version, put, request).map(|(kind, data)| (kind, id.0, data))
        })
    }

    /// The frame of a reply.
    pub fn encode_reply<P: Payload + Deref<Target = [u8]>>(
        self,
        id: RequestId,
        reply: &Reply<P>,
    ) -> Result<Frame<P>, WireError> {
        self.frame(|put| super::reply::encode(put, reply).map(|(kind, data)| (kind, id.0, data)))
    }

    /// The frame of what the ends of a connection say to each other.
    pub fn encode_control<P: Payload + Deref<Target = [u8]>>(
        self,
        control: &Control,
    ) -> Result<Frame<P>, WireError> {
        self.frame(|put| Ok(encode_control(put, control)))
    }

    fn frame<'a, P: Payload + Deref<Target = [u8]> + 'a>(
        self,
        parts: impl FnOnce(&mut Put<'_>) -> Result<Parts<'a, P>, WireError>,
    ) -> Result<Frame<P>, WireError> {
        let mut head = Vec::with_capacity(2 * HEADER_LEN);
        head.resize(HEADER_LEN, 0);
        let (kind, id, data) = parts(&mut Put(&mut head))?;
        let (meta, bytes) = (&head[HEADER_LEN..], data.map_or(&[][..], |data| &**data));
        if data.is_some() && bytes.is_empty() {
            return Err(WireError::NoData(kind));
        }
        let header = Header {
            kind,
            id,
            meta_len: u32::try_from(meta.len()).unwrap_or(u32::MAX),
            meta_crc: crc32c::crc32c(meta),
            data_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            data_crc: (self.data_crc && !bytes.is_empty()).then(|| crc32c::crc32c(bytes)),
        };
        header.check_bounds()?;
        head[..HEADER_LEN].copy_from_slice(&header.encode());
        Ok(Frame {
            head,
            data: data.cloned(),
        })
    }

    /// The message of a frame whose head has been decoded. `data` must be there exactly if the head says so.
    pub fn decode<P: Payload + Deref<Target = [u8]>>(
        self,
        header: &Header,
        meta: &[u8],
        data: Option<P>,
    ) -> Result<Message<P>, WireError> {
        let kind = header.kind;
        if meta.len() != header.meta_len as usize || crc32c::crc32c(meta) != header.meta_crc {
            return Err(WireError::MetaChecksum(kind));
        }
        let bytes = data.as_deref().unwrap_or(&[]);
        if bytes.len() != header.data_len as usize {
            return Err(WireError::NoData(kind));
        }
        self.check_data(header, bytes)?;
        let mut take = Take::new(kind, meta);
        let id = RequestId(header.id);
        let message = if kind.is_request() {
            Message::Request(id, super::request::decode(self.version, kind, &mut take, data)?)
        } else if kind.is_reply() {
            Message::Reply(id, super::reply::decode(kind, &mut take, data)?)
        } else {
            Message::Control(decode_control(kind, header.id, &mut take)?)
        };
        take.end()?;
        Ok(message)
    }

    fn check_data(self, header: &Header, bytes: &[u8]) -> Result<(), WireError> {
        if header.data_crc.is_some() != (self.data_crc && !bytes.is_empty()) {
            return Err(WireError::DataChecksumPresence(header.kind));
        }
        match header.data_crc {
            Some(crc) if crc != crc32c::crc32c(bytes) => Err(WireError::DataChecksum(header.kind)),
            _ => Ok(()),
        }
    }
}

fn encode_control<'a, P>(put: &mut Put<'_>, control: &Control) -> Parts<'a, P> {
    match control {
        Control::Ping(number) => (Kind::Ping, *number, None),
        Control::Pong(number) => (Kind::Pong, *number, None),
        Control::Farewell { code, text } => {
            put.u16(code.number());
            put.bytes(presentable(text).as_bytes());
            (Kind::Farewell, 0, None)
        }
    }
}

fn decode_control(kind: Kind, id: u64, take: &mut Take<'_>) -> Result<Control, WireError> {
    match kind {
        Kind::Ping => Ok(Control::Ping(id)),
        Kind::Pong => Ok(Control::Pong(id)),
        Kind::Farewell => {
            let code = FarewellCode::from_number(take.u16()?).ok_or_else(|| take.value("reason"))?;
            let text = take.rest();
            if id != 0 || text.len() > MAX_TEXT {
                return Err(take.value("farewell"));
            }
            let text = std::str::from_utf8(text).map_err(|_| take.value("text"))?;
            if presentable(text) != text {
                return Err(take.value("text"));
            }
            Ok(Control::Farewell {
                code,
                text: text.to_owned(),
            })
        }
        other => Err(WireError::UnknownKind(other.number())),
    }
}
