//! Those who look things up: as `docker inspect` and containers that start do, from the node's own catalogue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fleet::Fleet;

/// Between two look-ups of one reader.
const PAUSE: Duration = Duration::from_millis(100);

/// So many readers on each node that follows, for so long, each looking up one volume after the other. Gives the
/// number of look-ups; fails if a volume is not found.
pub async fn read(fleet: &Fleet, per_node: usize, volumes: usize, duration: Duration) -> anyhow::Result<u64> {
    let count = AtomicU64::new(0);
    let count = &count;
    let readers = fleet.catalogues().enumerate().flat_map(|(node, catalogue)| {
        (0..per_node).map(move |reader| async move {
            let mut number = node * 31 + reader * 7;
            loop {
                let name = format!("volume-{:06}", number % volumes);
                let found = catalogue.read(|contents| contents.by_name(&name).is_some());
                anyhow::ensure!(found, "`{name}` is not in the catalogue");
                count.fetch_add(1, Ordering::Relaxed);
                number += 1;
                tokio::time::sleep(PAUSE).await;
            }
        })
    });
    let all = futures::future::try_join_all(readers);
    match tokio::time::timeout(duration, all).await {
        Ok(Err::<Vec<()>, _>(error)) => Err(error),
        _ => Ok(count.load(Ordering::Relaxed)),
    }
}
