//! The embedded store: the suite, and what only a file can suffer.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_cluster::sqlite::Sqlite;
use bulkhead_cluster::store::{Expect, Options, Revision, Store, StoreError, Txn, Watcher, open};
use tempfile::TempDir;

use crate::conformance::{Subject, suite};
use crate::support::{Follower, until, within};

/// One file; clients of one prefix share its one store, as the parts of a daemon do.
struct File {
    dir: TempDir,
    open: tokio::sync::Mutex<Vec<(String, Arc<Sqlite>)>>,
}

impl File {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            open: tokio::sync::Mutex::default(),
        }
    }
}

#[async_trait]
impl Subject for File {
    async fn open(&self, prefix: &str) -> Arc<dyn Store> {
        let mut open = self.open.lock().await;
        if let Some((_, store)) = open.iter().find(|(other, _)| other == prefix) {
            return Arc::clone(store) as _;
        }
        let store = match open.first() {
            Some((_, first)) => first.with_prefix(prefix),
            None => Sqlite::open(&self.dir.path().join("store.db"), &with_prefix(prefix))
                .await
                .unwrap(),
        };
        let store = Arc::new(store);
        open.push((prefix.to_owned(), Arc::clone(&store)));
        store
    }

    async fn compact(&self, upto: Revision) {
        let open = self.open.lock().await;
        open[0].1.compact(upto).await.unwrap();
    }
}

fn with_prefix(prefix: &str) -> Options {
    Options {
        prefix: prefix.to_owned(),
        ..Options::default()
    }
}

async fn at(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
    open(&format!("sqlite://{}", path.display()), &Options::default()).await
}

mod suite_on_a_file {
    use super::*;

    suite!(File::new());
    crate::volumes::volume_suite!(File::new());
    crate::nodes::node_suite!(File::new());
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/on/demand/store.db");
    let store = at(&path).await.unwrap();
    assert!(!store.capabilities().arbitrates);
    let revision = store.swap("a", Expect::Absent, "1".into()).await.unwrap();
    let (_, listed) = store.list("").await.unwrap();
    store.commit(Txn::new().put("b", "2")).await.unwrap();
    drop(store);
    let store = reopen(&path).await;
    assert_eq!(store.get("a").await.unwrap().unwrap().revision, revision);
    // History outlives the process: a watch goes on where it was.
    let mut watch = store.watch("", listed).await.unwrap();
    match watch.next().await.unwrap() {
        bulkhead_cluster::store::Batch::Changes(events, _) => assert_eq!(events.len(), 1),
        other => panic!("{other:?}"),
    }
    for file in ["store.db", "store.db.lock", "store.db-wal"] {
        let mode = fs::metadata(path.with_file_name(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

async fn reopen(path: &Path) -> Arc<dyn Store> {
    // The thread of a dropped store ends on its own; its lock is free a moment later.
    within(Duration::from_secs(5), "the file to be free", async {
        loop {
            match at(path).await {
                Ok(store) => break store,
                Err(StoreError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let _store = at(&path).await.unwrap();
    let error = at(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
}

#[tokio::test]
async fn foreign_and_damaged_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = async |name: &str, words: &str| {
        let path = dir.path().join(name);
        let before = fs::read(&path).unwrap();
        let error = at(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::BadFile { .. }), "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(fs::read(&path).unwrap() == before, "{name} was changed");
    };
    fs::write(
        dir.path().join("text"),
        "not a database at all, but long enough to be taken for one".repeat(100),
    )
    .unwrap();
    refused("text", "not a database").await;
    let foreign = rusqlite::Connection::open(dir.path().join("foreign")).unwrap();
    foreign.execute_batch("CREATE TABLE mine (x)").unwrap();
    drop(foreign);
    refused("foreign", "another program").await;
    let store = at(&dir.path().join("newer")).await.unwrap();
    drop(store);
    drop(reopen(&dir.path().join("newer")).await);
    until(Duration::from_secs(5), "the lock to be free", || async {
        fs::File::open(dir.path().join("newer.lock"))
            .unwrap()
            .try_lock()
            .is_ok()
    })
    .await;
    let newer = rusqlite::Connection::open(dir.path().join("newer")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    refused("newer", "newer Bulkhead").await;
    fs::create_dir(dir.path().join("directory")).unwrap();
    assert!(matches!(
        at(&dir.path().join("directory")).await,
        Err(StoreError::BadFile { .. })
    ));
}

#[tokio::test]
async fn damage_in_the_middle_is_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = at(&path).await.unwrap();
    for i in 0..200 {
        store
            .swap(&format!("k{i}"), Expect::Absent, vec![7; 2000].into())
            .await
            .unwrap();
    }
    drop(store);
    until(Duration::from_secs(5), "the log to be merged", || async {
        !dir.path().join("store.db-wal").exists()
    })
    .await;
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let error = at(&path).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[tokio::test]
async fn leases_get_their_time_again_after_a_restart_and_then_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = at(&path).await.unwrap();
    let lease = store.grant(Duration::from_secs(2)).await.unwrap();
    store
        .commit(Txn::new().put_leased("alive", "1", &lease.id))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(store);
    let store = reopen(&path).await;
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(
        store.get("alive").await.unwrap().is_some(),
        "ended by time that the process did not see"
    );
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), ""));
    follower
        .until(Duration::from_secs(5), "the key", |f| !f.state.is_empty())
        .await;
    follower
        .until(Duration::from_secs(5), "the end", |f| f.state.is_empty())
        .await;
    assert!(begin.elapsed() >= Duration::from_millis(1900));
    assert_ne!(
        store.grant(Duration::from_secs(2)).await.unwrap().id,
        lease.id,
        "a lease's name is never used twice"
    );
}

#[tokio::test]
async fn every_call_ends_also_when_the_file_is_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let options = Options {
        deadline: Duration::from_millis(500),
        ..Options::default()
    };
    let store = open(&format!("sqlite://{}", path.display()), &options)
        .await
        .unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begin = Instant::now();
    let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert!(store.access().away().is_some());
    let error = store.get("a").await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    until(Duration::from_secs(5), "the store to be back", || async {
        store.get("a").await.is_ok()
    })
    .await;
    assert!(store.access().away().is_none());
}

#[tokio::test]
async fn a_watch_survives_its_history_being_trimmed() {
    let file = File::new();
    let store = file.open("p/").await;
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), ""));
    let txn = |n: u64| Txn::new().put("k", n.to_string());
    let first = store.commit(txn(0)).await.unwrap();
    follower
        .until(Duration::from_secs(5), "the key", |f| !f.state.is_empty())
        .await;
    file.compact(Revision(first.0 - 1)).await;
    for n in 1..=20 {
        store.commit(txn(n)).await.unwrap();
    }
    file.compact(Revision(first.0 + 10)).await;
    let last = store.commit(txn(21)).await.unwrap();
    follower
        .until(Duration::from_secs(5), "the newest", |f| f.at >= last)
        .await;
    assert_eq!(follower.state["k"].0, "21");
}

/// Not a test of its own: the process that the next one kills.
#[tokio::test]
#[ignore = "run by what_was_acknowledged_survives_a_kill"]
async fn writer() {
    let Some(path) = std::env::var_os("BULKHEAD_TEST_STORE") else {
        return;
    };
    let store = at(Path::new(&path)).await.unwrap();
    let mut expect = Expect::Absent;
    for n in 0u64.. {
        expect = Expect::At(store.swap("counter", expect, n.to_string().into()).await.unwrap());
        println!("\nwrote {n}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let path = dir.path().join(format!("store{round}.db"));
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sqlite::writer",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("BULKHEAD_TEST_STORE", &path)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let number = |line: &str| line.strip_prefix("wrote ").map(|n| n.parse::<u64>().unwrap());
        let mut last = None;
        while last < Some(20 + round * 7) {
            last = last.max(number(&lines.next().unwrap().unwrap()));
        }
        let error = at(&path).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("process {}", child.id())),
            "{error}"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died is still in the pipe.
        for line in lines {
            last = last.max(number(&line.unwrap()));
        }
        let store = at(&path).await.unwrap();
        let entry = store.get("counter").await.unwrap().unwrap();
        let found: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        assert!(
            Some(found) >= last && Some(found) <= last.map(|last| last + 1),
            "{found} after {last:?}"
        );
    }
}
