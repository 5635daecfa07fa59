//! What both ends of a session share: a reader thread, a keeper thread, sending, and one end. Knows frames and
//! deadlines; what a message means is for the [`End`] that it serves.

use super::config::LinkConfig;
use super::error::{CloseReason, SendError};
use super::outbox::{Drained, Outbox, Outgoing};
use super::pulse::{Heard, Pulse};
use super::stream::{Control, Stream};
use crate::io::Data;
use crate::wire::{Codec, Control as Word, FrameReader, Header, Message, ReadError};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// Stack of a reader, on which requests are served as well.
const READER_STACK: usize = 512 << 10;
/// Stack of a keeper.
const KEEPER_STACK: usize = 128 << 10;
/// How long a connection that takes nothing more is still read.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Messages whose answers go together at most: the first waits for the last.
const MOST_TOGETHER: usize = 16;
/// A keeper that has nothing to do looks again after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is particular to the primary's or the replica's end of a session.
pub(super) trait End: Send + Sync + 'static {
    /// A frame is to come; nothing of its body is read before this returns. May wait, until [`Self::interrupt`].
    fn admit(&self, header: &Header) -> Result<(), CloseReason>;
    /// A message has come.
    fn deliver(&self, message: Message<Data>) -> Result<(), CloseReason>;
    /// The first deadline among what is in flight; an error if one has passed.
    fn next_deadline(&self, now: Instant) -> Result<Option<Instant>, CloseReason>;
    /// Ends every wait of `admit` and `deliver`.
    fn interrupt(&self);
    /// Whether what is sent while a message is served may be held back, because another message is here already.
    fn may_hold(&self) -> bool;
    /// The session is over. Called once.
    fn closed(&self, reason: &CloseReason);
}

pub(super) struct Channel {
    pub(super) codec: Codec,
    pub(super) config: LinkConfig,
    control: Arc<dyn Control>,
    outbox: Mutex<Outbox>,
    work: Condvar,
    end: Arc<dyn End>,
    reason: OnceLock<CloseReason>,
    /// A write failed, and when. The reader may still find the peer's farewell, which says more.
    broken: OnceLock<(CloseReason, Instant)>,
    threads: Mutex<usize>,
    thread_left: Condvar,
    pulse: Arc<Pulse>,
    pings: Mutex<Pings>,
}

#[derive(Default)]
struct Pings {
    next: u64,
    /// Not answered yet, oldest first; bounded, because the session ends with an old one.
    sent: VecDeque<(u64, Instant)>,
    round_trip: Option<Duration>,
}

impl Channel {
    /// A session on a stream whose handshake is done; nothing is read before [`Self::run`].
    pub(super) fn new(
        stream: Stream,
        codec: Codec,
        config: LinkConfig,
        end: Arc<dyn End>,
    ) -> (Arc<Self>, FrameReader<Heard>) {
        let pulse = Arc::new(Pulse::new());
        let heard = Heard::new(stream.read, Arc::clone(&pulse));
        let channel = Arc::new(Self {
            codec,
            config,
            control: stream.control,
            outbox: Mutex::new(Outbox::new(stream.write)),
            work: Condvar::new(),
            end,
            reason: OnceLock::new(),
            broken: OnceLock::new(),
            threads: Mutex::new(0),
            thread_left: Condvar::new(),
            pulse,
            pings: Mutex::new(Pings::default()),
        });
        (channel, FrameReader::new(heard, codec))
    }

    /// Starts the two threads. If the system has none to give, the session ends at once, and says so as always.
    pub(super) fn run(self: &Arc<Self>, name: u64, reader: FrameReader<Heard>) {
        if let Err(error) = self.spawn(format!("link-keep-{name}"), KEEPER_STACK, Self::keep) {
            let reason = CloseReason::from(error);
            self.close(reason.clone());
            self.end.closed(&reason);
            return;
        }
        let run = move |channel: &Self| channel.read(reader);
        if let Err(error) = self.spawn(format!("link-read-{name}"), READER_STACK, run) {
            self.close(error.into());
        }
    }

    fn spawn(
        self: &Arc<Self>,
        name: String,
        stack: usize,
        run: impl FnOnce(&Self) + Send + 'static,
    ) -> io::Result<()> {
        let channel = Arc::clone(self);
        *self.threads.lock() += 1;
        let spawned = thread::Builder::new()
            .name(name)
            .stack_size(stack)
            .spawn(move || {
                run(&channel);
                channel.leave();
            });
        if spawned.is_err() {
            self.leave();
        }
        spawned.map(drop)
    }

    fn leave(&self) {
        *self.threads.lock() -= 1;
        self.thread_left.notify_all();
    }

    /// Waits until both threads are gone; whether they are.
    pub(super) fn wait_ended(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut threads = self.threads.lock();
        while *threads > 0 {
            if self.thread_left.wait_until(&mut threads, until).timed_out() {
                return *threads == 0;
            }
        }
        true
    }

    pub(super) fn reason(&self) -> Option<&CloseReason> {
        self.reason.get()
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.pings.lock().round_trip
    }

    pub(super) fn queued_and_peak(&self) -> (usize, usize) {
        self.outbox.lock().queued_and_peak()
    }

    /// Sends or queues a frame; `limit` is the most that may be queued with it.
    pub(super) fn send(&self, out: Outgoing, limit: usize) -> Result<(), SendError> {
        let mut outbox = self.outbox.lock();
        // What others send, while the reader is busy, goes at once, and takes along what was held.
        let at_once = out.urgent || outbox.held.is_none_or(|reader| reader != thread::current().id());
        self.push(&mut outbox, out, limit)?;
        if at_once && !self.drain(&mut outbox) {
            return Err(SendError::Closed(self.known_reason()));
        }
        Ok(())
    }

    /// Queues a frame for [`Self::send_queued`].
    pub(super) fn queue(&self, out: Outgoing, limit: usize) -> Result<(), SendError> {
        self.push(&mut self.outbox.lock(), out, limit)
    }

    /// Sends what is queued.
    pub(super) fn send_queued(&self) {
        self.drain(&mut self.outbox.lock());
    }

    fn push(&self, outbox: &mut Outbox, out: Outgoing, limit: usize) -> Result<(), SendError> {
        if outbox.closed {
            return Err(SendError::Closed(self.known_reason()));
        }
        let room = if out.urgent {
            outbox.has_urgent_room()
        } else {
            outbox.has_room(out.frame.len(), limit)
        };
        if !room {
            let (queued, _) = outbox.queued_and_peak();
            return Err(SendError::Full { queued, in_flight: 0 });
        }
        outbox.push(out);
        Ok(())
    }

    /// Writes what is queued, unless the keeper is about to; whether the socket is sound.
    fn drain(&self, outbox: &mut Outbox) -> bool {
        if outbox.closed || outbox.left || outbox.is_empty() {
            return true;
        }
        match outbox.drain() {
            Ok(Drained::Empty) => true,
            Ok(Drained::Left) => {
                self.work.notify_one();
                true
            }
            Err(error) => {
                self.broke(error, outbox);
                false
            }
        }
    }

    /// Holds back what this thread sends from now on, or sends what was held back. What is held goes within a second even if this
    /// thread is stuck meanwhile: the keeper looks after it.
    fn hold(&self, held: bool) {
        let mut outbox = self.outbox.lock();
        outbox.held = held.then(|| thread::current().id());
        if !held {
            self.drain(&mut outbox);
        }
    }

    fn known_reason(&self) -> CloseReason {
        let broken = self.broken.get().map(|(reason, _)| reason);
        self.reason
            .get()
            .or(broken)
            .cloned()
            .unwrap_or(CloseReason::Asked)
    }

    /// Nothing can be written any more. The end follows as soon as the reader has seen what there is.
    fn broke(&self, error: io::Error, outbox: &mut Outbox) {
        outbox.close();
        // Only the first failure is of interest.
        let _ = self.broken.set((error.into(), Instant::now()));
        self.work.notify_one();
    }

    fn send_word(&self, word: &Word) -> Result<(), CloseReason> {
        let frame = self.codec.encode_control(word)?;
        let out = Outgoing {
            frame,
            _held: None,
            urgent: true,
        };
        // If it is closed, the reader and the keeper see why by themselves. If too many words wait already, the peer
        // takes nothing, and the rule for that will end it; an answer to a later ping answers the earlier ones too.
        let _ = self.send(out, 0);
        Ok(())
    }

    /// Ends the session. The first reason counts.
    pub(super) fn close(&self, reason: CloseReason) {
        let farewell = reason.farewell();
        if self.reason.set(reason).is_err() {
            return;
        }
        let mut outbox = self.outbox.lock();
        // What was held back is sent first, if the socket takes it.
        self.drain(&mut outbox);
        if outbox.is_empty()
            && !outbox.closed
            && let Some((code, text)) = farewell
            && let Ok(frame) = self.codec.encode_control(&Word::Farewell { code, text })
        {
            outbox.push(Outgoing {
                frame,
                _held: None,
                urgent: true,
            });
            // If it cannot be said at once it is not said.
            let _ = outbox.drain();
        }
        outbox.close();
        drop(outbox);
        self.control.shutdown();
        self.end.interrupt();
        self.work.notify_one();
    }

    fn read(&self, mut reader: FrameReader<Heard>) {
        let mut together = 0;
        let reason = loop {
            if let Err(reason) = self.read_one(&mut reader, &mut together) {
                break reason;
            }
        };
        self.close(reason);
    }

    /// Reads and serves one message. `together`: how many were served since answers are held back, because the next is here
    /// already.
    fn read_one(&self, reader: &mut FrameReader<Heard>, together: &mut usize) -> Result<(), CloseReason> {
        let Some(head) = reader.head().map_err(read_reason)? else {
            return Err(CloseReason::Ended);
        };
        self.end.admit(head.header())?;
        let message = reader.body(head).map_err(read_reason)?;
        if let Some(reason) = self.reason.get() {
            return Err(reason.clone());
        }
        let goes_on = reader.has_next() && *together < MOST_TOGETHER && self.end.may_hold();
        if goes_on && *together == 0 {
            self.hold(true);
        }
        let served = self.serve(message);
        if goes_on {
            *together += 1;
        } else if std::mem::take(together) > 0 {
            self.hold(false);
        }
        served
    }

    fn serve(&self, message: Message<Data>) -> Result<(), CloseReason> {
        match message {
            Message::Control(Word::Ping(number)) => self.send_word(&Word::Pong(number)),
            Message::Control(Word::Pong(number)) => self.pong(number),
            Message::Control(Word::Farewell { code, text }) => Err(CloseReason::Farewell { code, text }),
            other => self.end.deliver(other),
        }
    }

    fn pong(&self, number: u64) -> Result<(), CloseReason> {
        let mut pings = self.pings.lock();
        let Some(at) = pings.sent.iter().position(|(sent, _)| *sent == number) else {
            return Err(CloseReason::Violation(format!(
                "it answers ping {number}, which was not sent"
            )));
        };
        let since = pings
            .sent
            .drain(..=at)
            .next_back()
            .map(|(_, since)| since.elapsed());
        pings.round_trip = since;
        Ok(())
    }

    /// The keeper: drains the queue, pings, and ends the session when a rule says so. It never runs foreign code while
    /// the session lives, so nothing can hold it up.
    fn keep(&self) {
        let mut next_ping = Instant::now();
        loop {
            let now = Instant::now();
            let wake = self.check(now).and_then(|wake| {
                if now >= next_ping {
                    self.ping(now)?;
                    next_ping = now + self.config.ping_every;
                }
                Ok(wake.min(next_ping).saturating_duration_since(now))
            });
            let wake = match wake {
                Ok(wake) => wake,
                Err(reason) => {
                    self.close(reason);
                    break;
                }
            };
            let mut outbox = self.outbox.lock();
            if std::mem::take(&mut outbox.nudged) || self.reason.get().is_some() {
                continue;
            }
            if outbox.is_empty() {
                self.work.wait_for(&mut outbox, wake);
            } else {
                self.drain_when_writable(outbox, wake);
            }
        }
        if let Some(reason) = self.reason.get() {
            self.end.closed(reason);
        }
    }

    fn drain_when_writable(&self, outbox: MutexGuard<'_, Outbox>, wake: Duration) {
        drop(outbox);
        let waited = self.control.wait_writable(wake.max(Duration::from_millis(1)));
        let mut outbox = self.outbox.lock();
        if outbox.closed {
            return;
        }
        if let Err(error) = waited.and_then(|()| outbox.drain()) {
            self.broke(error, &mut outbox);
        }
    }

    fn ping(&self, now: Instant) -> Result<(), CloseReason> {
        let number = {
            let mut pings = self.pings.lock();
            pings.next += 1;
            let number = pings.next;
            pings.sent.push_back((number, now));
            number
        };
        self.send_word(&Word::Ping(number))
    }

    /// Every rule that can end the session; when to look again if none does.
    fn check(&self, now: Instant) -> Result<Instant, CloseReason> {
        if let Some(reason) = self.reason.get() {
            return Err(reason.clone());
        }
        if let Some((reason, since)) = self.broken.get() {
            let until = *since + LAST_WORDS;
            return if now >= until {
                Err(reason.clone())
            } else {
                Ok(until)
            };
        }
        let config = &self.config;
        let mut wake = now + LOOK_AGAIN;
        let mut rule = |since: Instant, within: Duration| {
            let due = since + within;
            wake = wake.min(due);
            now >= due
        };
        // Of a peer that this end does not listen to, because it is busy with what came before, nothing can be said.
        if let Some((heard, listening)) = self.pulse.listening(now) {
            if rule(heard, config.silence) {
                return Err(CloseReason::Silent(config.silence));
            }
            if let Some(&(_, since)) = self.pings.lock().sent.front()
                && rule(since.max(listening), config.answer_within)
            {
                return Err(CloseReason::PingUnanswered(config.answer_within));
            }
        }
        let stuck_since = {
            let outbox = self.outbox.lock();
            (!outbox.is_empty()).then(|| outbox.progress())
        };
        if let Some(since) = stuck_since
            && rule(since, config.stall)
        {
            return Err(CloseReason::Stalled(config.stall));
        }
        Ok(match self.end.next_deadline(now)? {
            Some(deadline) => wake.min(deadline),
            None => wake,
        })
    }

    /// A deadline was set; the keeper may have to look sooner than it meant to.
    pub(super) fn deadline_set(&self, within: Duration) {
        if within < LOOK_AGAIN {
            self.outbox.lock().nudged = true;
            self.work.notify_one();
        }
    }
}

fn read_reason(error: ReadError) -> CloseReason {
    match error {
        ReadError::Io(error) => error.into(),
        ReadError::CutOff => CloseReason::Ended,
        ReadError::Wire(error) => CloseReason::Wire(error),
    }
}
