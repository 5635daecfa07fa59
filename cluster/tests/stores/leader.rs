//! etcd's leader goes, and somebody makes a volume at once: that takes an election and one member that is waited for in vain,
//! not one deadline after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_cluster::schema::VolumeSpec;
use bulkhead_cluster::store::{Options, Store, StoreError, Txn, open};
use bulkhead_cluster::volumes::{Begun, NewVolume, Placed, Volumes};
use bulkhead_engine::ids::{NodeId, PoolId};

use crate::proxy::{Mode, Proxy};
use crate::servers::EtcdCluster;

/// What a daemon does for a volume's creation: looks whether there is one, makes its record, and lets go of it. Nothing of it
/// may be refused: an election is waited for.
async fn create(store: Arc<dyn Store>, name: String) -> Duration {
    let begin = Instant::now();
    let volumes = Volumes::new(store);
    let place = Placed {
        node: NodeId::from_u128(1),
        pool: PoolId::from_u128(1),
    };
    let found = volumes.by_name(&name).await;
    let found = found.unwrap_or_else(|error| panic!("{name} after {:?}: {error}", begin.elapsed()));
    assert!(found.is_none(), "{found:?}");
    let looked = begin.elapsed();
    let new = NewVolume::new(&name, VolumeSpec::new(64 << 20), &[place], place.node).unwrap();
    let Begun::Made(volume) = volumes.begin_create(&new.made_on(place.node)).await.unwrap() else {
        panic!("nobody else makes {name}");
    };
    let begun = begin.elapsed();
    volumes.finish_create(&volume).await.unwrap();
    let done = begin.elapsed();
    if done > Duration::from_millis(300) {
        println!("{name}: looked after {looked:?}, begun after {begun:?}, done after {done:?}");
    }
    done
}

/// Volumes one after the other, so that one is in the midst of each step when the leader goes; the longest time.
async fn create_all(store: Arc<dyn Store>, names: String, stop: Arc<AtomicBool>) -> (usize, Duration) {
    let (mut made, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let took = create(Arc::clone(&store), format!("{names}-{made}")).await;
        longest = longest.max(took);
        made += 1;
    }
    (made, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_made_soon_after_the_leader_has_gone() {
    let cluster = EtcdCluster::start(3).await;
    let options = Options {
        prefix: "bulkhead/test/soon/".to_owned(),
        ..Options::default()
    };
    let mut longest = Duration::ZERO;
    // Killed, its connections end at once; frozen, they stay open, as those to a host that is cut off.
    for (round, frozen) in [false, true, false, true].into_iter().enumerate() {
        let mut stores = Vec::new();
        for _ in 0..3 {
            stores.push(open(&cluster.url(), &options).await.unwrap());
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut busy = Vec::new();
        for (n, store) in stores.iter().enumerate() {
            for creator in 0..4 {
                let names = format!("v{round}-{n}-{creator}");
                busy.push(tokio::spawn(create_all(
                    Arc::clone(store),
                    names,
                    Arc::clone(&stop),
                )));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leader = cluster.leader().await;
        let server = &cluster.servers[leader];
        println!("round {round}, frozen: {frozen}");
        if frozen {
            server.pause();
        } else {
            server.kill();
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        stop.store(true, Ordering::Relaxed);
        for creator in busy {
            let (made, took) = creator.await.unwrap();
            assert!(made > 1, "none was made after it");
            longest = longest.max(took);
        }
        if frozen {
            server.resume();
        } else {
            server.restart();
        }
        cluster.ready().await;
    }
    println!("the longest creation took {longest:?}");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

/// A change that is sent to a member which says nothing: whoever sent it has half of the time left to find out at another one
/// what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_not_answered_is_given_up_in_half_of_the_time() {
    let cluster = EtcdCluster::start(1).await;
    let proxy = Proxy::to(cluster.clients[0]).await;
    let options = Options {
        prefix: "bulkhead/test/half/".to_owned(),
        deadline: Duration::from_secs(8),
        ..Options::default()
    };
    let store = open(&format!("etcd://127.0.0.1:{}", proxy.port), &options)
        .await
        .unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    proxy.set(Mode::LoseAnswers);
    let begin = Instant::now();
    let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
    let took = begin.elapsed();
    assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
    assert!(took < options.deadline * 3 / 4, "{took:?}: {error}");
    proxy.set(Mode::Pass);
    proxy.cut();
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!(&entry.value[..], b"2", "it was made, and nobody could know");
}
