//! Watches of etcd. Silence is asked about: an answer to "are you there" proves that the stream lives, but its revision
//! proves nothing (etcd before 3.4.25 may send it ahead of events), so only events move the position. When many changes
//! come, the watch rests between batches of them ([`Pace`]); it goes on from its position, so nothing is left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use etcd_client::{WatchOptions, WatchResponse, WatchStream};

use super::fault::{Fault, classify};
use super::link::Link;
use super::pace::{Pace, REST};
use super::{Inner, MAX_ANSWER, number, revision};
use crate::store::{Batch, Changes, Event, Revision, StoreError, prefix_end};

pub(super) struct Follow {
    inner: Arc<Inner>,
    prefix: String,
    after: Revision,
    pace: Pace,
    state: State,
}

enum State {
    /// The stream is open.
    Watching(Box<Open>),
    /// There is none until this moment.
    Resting(Instant),
}

struct Open {
    link: Link,
    stream: WatchStream,
    /// When it was last heard of.
    heard: Instant,
    asked: bool,
}

/// Begins a watch. Its acknowledgement comes with the first [`Changes::next`].
pub(super) async fn follow(inner: Arc<Inner>, prefix: &str, after: Revision) -> Result<Follow, StoreError> {
    let open = open(&inner, prefix, after).await?;
    Ok(Follow {
        inner,
        prefix: prefix.to_owned(),
        after,
        pace: Pace::new(Instant::now()),
        state: State::Watching(Box::new(open)),
    })
}

async fn open(inner: &Inner, prefix: &str, after: Revision) -> Result<Open, StoreError> {
    let until = Instant::now() + inner.deadline;
    let full = inner.full(prefix);
    let mut options = WatchOptions::new().with_start_revision(number(after).saturating_add(1));
    options = match prefix_end(&full) {
        Some(end) => options.with_range(end),
        None => options.with_from_key(),
    };
    let key = if full.is_empty() { "\0".to_owned() } else { full };
    let link = inner
        .links
        .get(until)
        .await
        .map_err(|no_link| inner.no_link(no_link))?;
    let mut client = link.client().watch_client().max_decoding_message_size(MAX_ANSWER);
    let stream = match tokio::time::timeout_at(until.into(), client.watch(key, Some(options))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(lost(inner, &link, &error)),
        Err(_) => {
            inner.links.lost(&link);
            return Err(inner.unreachable(&format!("{} does not answer a watch", link.endpoint())));
        }
    };
    Ok(Open {
        link,
        stream,
        heard: Instant::now(),
        asked: false,
    })
}

fn lost(inner: &Inner, link: &Link, error: &etcd_client::Error) -> StoreError {
    match classify(&inner.name, error) {
        Fault::Refused(error) => error,
        Fault::NotSent(reason) | Fault::Unknown(reason) => {
            inner.links.lost(link);
            inner.unreachable(&reason)
        }
    }
}

impl Open {
    /// The next answer, however long it takes; silence of a dead connection is an error.
    async fn answer(&mut self, inner: &Inner) -> Result<WatchResponse, StoreError> {
        loop {
            let patience = inner.deadline * if self.asked { 2 } else { 1 };
            let until = self.heard + patience;
            match tokio::time::timeout_at(until.into(), self.stream.message()).await {
                Ok(Ok(Some(answer))) => {
                    self.heard = Instant::now();
                    self.asked = false;
                    return Ok(answer);
                }
                Ok(Ok(None)) => {
                    inner.links.lost(&self.link);
                    return Err(inner.unreachable(&format!("{} ended a watch", self.link.endpoint())));
                }
                Ok(Err(error)) => return Err(lost(inner, &self.link, &error)),
                Err(_) if self.asked => {
                    inner.links.lost(&self.link);
                    return Err(inner.unreachable(&format!("{} fell silent", self.link.endpoint())));
                }
                Err(_) => {
                    self.asked = true;
                    let ask = self.stream.request_progress();
                    // A full pipe to a dead member must not hold us; the silence is noticed next time round.
                    let _ = tokio::time::timeout(Duration::from_millis(100), ask).await;
                }
            }
        }
    }
}

#[async_trait]
impl Changes for Follow {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            let open = match &mut self.state {
                State::Watching(open) => open,
                State::Resting(until) => {
                    tokio::time::sleep_until((*until).into()).await;
                    let open = open(&self.inner, &self.prefix, self.after).await?;
                    self.state = State::Watching(Box::new(open));
                    continue;
                }
            };
            let answer = open.answer(&self.inner).await?;
            let Some(batch) = self.take(&answer)? else {
                continue;
            };
            self.inner.access.answered();
            if let Batch::Changes(changes, _) = &batch {
                let now = Instant::now();
                if self.pace.is_too_fast(changes.len(), now) {
                    self.state = State::Resting(now + REST);
                }
            }
            return Ok(batch);
        }
    }
}

impl Follow {
    fn take(&mut self, answer: &WatchResponse) -> Result<Option<Batch>, StoreError> {
        let compacted = || StoreError::Compacted {
            store: self.inner.name.clone(),
            asked: self.after,
        };
        if answer.compact_revision() > 0 {
            return Err(compacted());
        }
        if answer.canceled() {
            return Err(self
                .inner
                .unreachable(&format!("a watch was cancelled: {}", answer.cancel_reason())));
        }
        if answer.created() {
            // A store that is behind what we have seen was restored from an older copy: its history is another one.
            let now = answer
                .header()
                .map_or(Revision(0), |header| revision(header.revision()));
            return if now < self.after {
                Err(compacted())
            } else {
                Ok(None)
            };
        }
        let mut events = Vec::with_capacity(answer.events().len());
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let entry = self.inner.entry(kv)?;
            // Only a key that is gone has version 0.
            events.push(if kv.version() == 0 {
                Event::Delete {
                    key: entry.key,
                    revision: entry.revision,
                }
            } else {
                Event::Put(entry)
            });
        }
        match events.last().map(Event::revision) {
            Some(last) => {
                self.after = last;
                Ok(Some(Batch::Changes(events, last)))
            }
            None => Ok(Some(Batch::Progress(self.after))),
        }
    }
}
