//! Watches of Consul: blocking queries, each of which answers with everything below the prefix once something has
//! changed. Consul keeps no history, so changes that follow each other quickly may be told as one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::Method;

use super::http::Answer;
use super::{Inner, MARK, kv};
use crate::store::{Batch, Changes, Revision, StoreError};

/// How long Consul may hold a query: it answers with everything at its end, also when nothing has changed.
const WAIT: Duration = Duration::from_secs(300);

pub(super) struct Follow {
    inner: Arc<Inner>,
    prefix: String,
    after: Revision,
    /// The query that Consul is holding. Kept over calls, so that nothing is asked twice.
    held: Option<BoxFuture<'static, Result<Answer, StoreError>>>,
}

impl Follow {
    pub(super) fn new(inner: Arc<Inner>, prefix: &str, after: Revision) -> Self {
        Self {
            prefix: inner.full(prefix),
            inner,
            after,
            held: None,
        }
    }

    fn ask(&self) -> BoxFuture<'static, Result<Answer, StoreError>> {
        let inner = Arc::clone(&self.inner);
        // Index 0 would not wait at all.
        let path = format!(
            "kv/{}?recurse&consistent&index={}&wait={}s",
            kv::path(&self.prefix),
            self.after.0.max(1),
            WAIT.as_secs()
        );
        // Consul adds up to a sixteenth, so that not all queries end at once.
        let longest = WAIT + WAIT / 16 + inner.http.deadline();
        async move { inner.http.wait(&path, longest).await }.boxed()
    }
}

#[async_trait]
impl Changes for Follow {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        if self.held.is_none() {
            self.held = Some(self.ask());
        }
        let Some(held) = &mut self.held else {
            return Ok(Batch::Progress(self.after));
        };
        let deadline = self.inner.http.deadline();
        let Ok(answer) = tokio::time::timeout(deadline, held).await else {
            // Silence: is it Consul that has nothing to tell, or nobody there? A read through the leader says.
            let path = format!("kv/{}?consistent", kv::path(&self.inner.full(MARK)));
            self.inner.http.read("watch", Method::GET, &path, None).await?;
            return Ok(Batch::Progress(self.after));
        };
        self.held = None;
        let (entries, revision) = self.inner.entries(&answer?)?;
        if revision == self.after {
            return Ok(Batch::Progress(self.after));
        }
        // A smaller one means that the store was restored from an older copy; everything is told all the same.
        self.after = revision;
        Ok(Batch::Everything(entries, revision))
    }
}
