//! Frames out of a byte stream. Small ones are read many at a time and moved once more, which costs less than asking the kernel for
//! each; of a large one's data all but what was read ahead goes straight into its page-aligned buffer. Never asks for more memory than a frame's checked head allows.

use super::{Codec, HEADER_LEN, Header, Message, WireError};
use crate::io::{AlignedBuf, Data};
use std::io::{self, IoSliceMut, Read};
use thiserror::Error;

/// Bytes read ahead: seven writes of 4 KiB. It is also the most that is moved twice of a frame's data.
const AHEAD: usize = 32 << 10;
/// A buffer for metadata larger than this is given back after use.
const KEEP_META: usize = 4096;

/// Why no frame could be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The stream failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The stream ended within a frame.
    #[error("the connection ended in the middle of a frame")]
    CutOff,
    /// What the stream holds is no frame.
    #[error("{0}")]
    Wire(#[from] WireError),
}

/// The head of a frame whose data is still in the stream; to be given to [`FrameReader::body`].
#[derive(Debug)]
pub struct Head(Header);

impl Head {
    /// What is to come.
    pub const fn header(&self) -> &Header {
        &self.0
    }
}

/// Takes frames out of a stream.
pub struct FrameReader<R> {
    stream: R,
    codec: Codec,
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
    meta: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// Takes frames out of `stream`, which stands at the start of one.
    pub fn new(stream: R, codec: Codec) -> Self {
        Self {
            stream,
            codec,
            ahead: vec![0; AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
            meta: Vec::new(),
        }
    }

    /// The next head; nothing if the stream ends in front of it. Every head must be followed by [`Self::body`].
    pub fn head(&mut self) -> Result<Option<Head>, ReadError> {
        while self.end - self.start < HEADER_LEN {
            self.ahead.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let count = retried(|| self.stream.read(&mut self.ahead[self.end..]))?;
            if count == 0 {
                return if self.end == 0 {
                    Ok(None)
                } else {
                    Err(ReadError::CutOff)
                };
            }
            self.end += count;
        }
        let Some(bytes) = self.ahead[self.start..self.end].first_chunk::<HEADER_LEN>() else {
            return Err(ReadError::CutOff);
        };
        let header = Header::decode(bytes)?;
        self.start += HEADER_LEN;
        Ok(Some(Head(header)))
    }

    /// What follows a head: reads metadata and data, checks and decodes them.
    pub fn body(&mut self, head: Head) -> Result<Message<Data>, ReadError> {
        let header = head.0;
        let mut meta = std::mem::take(&mut self.meta);
        meta.clear();
        meta.resize(header.meta_len as usize, 0);
        self.fill(&mut meta)?;
        let data = match header.data_len as usize {
            0 => None,
            len => {
                let mut buffer = AlignedBuf::stale(len);
                self.fill(&mut buffer)?;
                Some(Data::whole(buffer))
            }
        };
        let message = self.codec.decode(&header, &meta, data)?;
        if meta.capacity() <= KEEP_META {
            self.meta = meta;
        }
        Ok(message)
    }

    /// Whether the next frame is here already, whole.
    pub fn has_next(&self) -> bool {
        let ahead = &self.ahead[self.start..self.end];
        // What is not a head is for `head` to refuse; it does not wait for that.
        ahead
            .first_chunk::<HEADER_LEN>()
            .is_some_and(|head| Header::decode(head).is_ok_and(|header| header.frame_len() <= ahead.len()))
    }

    /// The next message; nothing if the stream ends in front of it.
    pub fn message(&mut self) -> Result<Option<Message<Data>>, ReadError> {
        match self.head()? {
            Some(head) => self.body(head).map(Some),
            None => Ok(None),
        }
    }

    /// Fills `target` with what was read ahead and then from the stream, which may in the same call give what comes
    /// after it.
    fn fill(&mut self, target: &mut [u8]) -> Result<(), ReadError> {
        let known = target.len().min(self.end - self.start);
        target[..known].copy_from_slice(&self.ahead[self.start..self.start + known]);
        self.start += known;
        let mut filled = known;
        while filled < target.len() {
            // Everything read ahead has been used up, so its buffer is free.
            (self.start, self.end) = (0, 0);
            let missing = target.len() - filled;
            let count = retried(|| {
                self.stream.read_vectored(&mut [
                    IoSliceMut::new(&mut target[filled..]),
                    IoSliceMut::new(&mut self.ahead),
                ])
            })?;
            if count == 0 {
                return Err(ReadError::CutOff);
            }
            filled += count.min(missing);
            self.end = count.saturating_sub(missing).min(AHEAD);
        }
        Ok(())
    }
}

fn retried(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
