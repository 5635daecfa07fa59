//! When each node has seen which revision, and from that when all of them had.

use std::time::Instant;

use bulkhead_cluster::catalogue::Catalogue;
use bulkhead_cluster::store::Revision;
use tokio::task::JoinHandle;

/// One node's diary: the revisions up to which its catalogue came, each with the moment.
#[derive(Debug)]
pub struct Diary(
    JoinHandle<Vec<(Revision, Instant)>>,
    tokio::sync::oneshot::Sender<()>,
);

impl Diary {
    /// Keeps one until it is closed.
    pub fn keep(catalogue: &Catalogue) -> Self {
        let mut changes = catalogue.changes();
        let (close, mut closed) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut pages = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    changed = changes.changed() => if changed.is_err() { break },
                    _ = &mut closed => break,
                }
                pages.push((*changes.borrow_and_update(), Instant::now()));
            }
            pages
        });
        Self(task, close)
    }

    /// What was noted.
    pub async fn close(self) -> Vec<(Revision, Instant)> {
        // Who keeps it may have ended; its pages are there all the same.
        let _ = self.1.send(());
        self.0.await.unwrap_or_default()
    }
}

/// For each of these revisions the moment at which the last node had seen it; `None` if one never did. The revisions
/// are in ascending order.
pub fn seen_by_all(revisions: &[Revision], diaries: &[Vec<(Revision, Instant)>]) -> Vec<Option<Instant>> {
    let mut latest: Vec<Option<Instant>> = vec![None; revisions.len()];
    let mut missed = vec![diaries.is_empty(); revisions.len()];
    for diary in diaries {
        let mut pages = diary.iter().peekable();
        for (index, revision) in revisions.iter().enumerate() {
            while pages.next_if(|(seen, _)| seen < revision).is_some() {}
            match pages.peek() {
                Some((_, at)) => latest[index] = latest[index].max(Some(*at)),
                None => missed[index] = true,
            }
        }
    }
    let told = latest.into_iter().zip(missed);
    told.map(|(at, missed)| at.filter(|_| !missed)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_node_counts() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let one = vec![(Revision(5), at(1)), (Revision(9), at(4))];
        let other = vec![(Revision(6), at(3)), (Revision(8), at(5))];
        let seen = seen_by_all(&[Revision(5), Revision(7), Revision(9)], &[one, other]);
        assert_eq!(seen, [Some(at(3)), Some(at(5)), None]);
        assert_eq!(seen_by_all(&[Revision(1)], &[]), [None]);
    }
}
