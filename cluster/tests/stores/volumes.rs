//! The life of volumes on a real store: races with one winner each, lost answers, dead holders. Checks that every
//! store goes through; `volume_suite!` makes tests of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bulkhead_cluster::classes::{ClassError, Classes};
use bulkhead_cluster::schema::{
    ChangeId, ClassRecord, Extra, IoPriority, LiveRecord, NodeCondition, ReplicaState, Timestamp, VolumeSpec,
    VolumeState, Wanted, encode, live_key,
};
use bulkhead_cluster::store::{Store, Txn};
use bulkhead_cluster::volumes::{
    Attach, Begun, Force, Held, NewVolume, Placed, ReplicaChange, Swap, Volume, VolumeError, Volumes,
    engine_record,
};
use bulkhead_engine::ids::{Epoch, Incarnation, NodeId, PoolId, ReplicaId, Tick};
use bulkhead_engine::machine::MemberState;
use bulkhead_engine::machine::record as engine;

use crate::conformance::Subject;
use crate::lossy::Lossy;

/// Makes a test of each check, with a subject that an async expression gives.
macro_rules! volume_suite {
    ($subject:expr) => {
        $crate::volumes::volume_suite!($subject; one_name_one_volume, life_of_a_volume, one_owner, a_dead_holder_is_replaced,
            members_leave_and_come_back, lost_answers_change_nothing_twice, delete_waits_for_every_replica, classes,
            a_creation_is_undone_by_one, a_holder_is_asked, a_machine_swaps, a_primary_is_forced,
            a_surplus_member_leaves, upkeep_is_no_use, a_replica_is_to_be_elsewhere);
    };
    ($subject:expr; $($check:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let subject = $subject;
                $crate::volumes::$check(&subject).await;
            }
        )*
    };
}
pub(crate) use volume_suite;

const GIB: u64 = 1 << 30;

fn node(id: u128) -> NodeId {
    NodeId::from_u128(id)
}

fn places(nodes: &[u128]) -> Vec<Placed> {
    nodes
        .iter()
        .map(|id| Placed {
            node: node(*id),
            pool: PoolId::from_u128(100 + id),
        })
        .collect()
}

fn new(name: &str, nodes: &[u128], creator: u128) -> NewVolume {
    let spec = VolumeSpec {
        repl: nodes.len() as u8,
        ..VolumeSpec::new(GIB)
    };
    NewVolume::new(name, spec, &places(nodes), node(creator)).unwrap()
}

async fn ready(volumes: &Volumes, name: &str, nodes: &[u128]) -> Volume {
    let begun = volumes.begin_create(&new(name, nodes, nodes[0])).await.unwrap();
    for of in nodes {
        made(volumes, begun.volume(), *of).await.unwrap();
    }
    volumes.finish_create(begun.volume()).await.unwrap()
}

/// A node reports all replicas that it has by the record.
async fn made(volumes: &Volumes, volume: &Volume, of: u128) -> Result<Option<Volume>, VolumeError> {
    let ours: Vec<ReplicaId> = volume.replicas_on(node(of)).map(|replica| replica.id).collect();
    volumes.replicas_made(volume, node(of), &ours).await
}

async fn live(store: &dyn Store, id: u128) -> bulkhead_cluster::store::LeaseId {
    let lease = store.grant(store.capabilities().min_ttl).await.unwrap();
    let key = live_key(node(id));
    let record = LiveRecord {
        node: node(id),
        incarnation: Incarnation::from_u128(id),
        clock: Timestamp::now(),
        condition: NodeCondition::Ok,
        since: Timestamp::now(),
        swarm_node: String::new(),
        extra: Extra::new(),
    };
    store
        .commit(Txn::new().put_leased(&key, encode(&key, &record).unwrap(), &lease.id))
        .await
        .unwrap();
    lease.id
}

fn held(volume: &Volume) -> Held {
    Held {
        attachment: volume.primary.as_ref().unwrap().attachment,
        epoch: volume.epoch,
    }
}

/// Tries again while the outcome is unknown or the store does not answer, as a careful caller does.
async fn insist<T, F: Future<Output = Result<T, VolumeError>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, VolumeError> {
    for _ in 0..200 {
        match call().await {
            Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(5)).await,
            other => return other,
        }
    }
    panic!("200 tries");
}

/// Several nodes create one name at once: one volume comes of it, and all hear of the same.
pub async fn one_name_one_volume(subject: &dyn Subject) {
    for round in 0..10 {
        let name = format!("race{round}");
        let mut tasks = Vec::new();
        for id in 1..=6 {
            let volumes = Volumes::new(subject.open("names/").await);
            let new = new(&name, &[id], id);
            tasks.push(tokio::spawn(async move { volumes.begin_create(&new).await }));
        }
        let (mut made, mut ids) = (0, Vec::new());
        for task in tasks {
            let begun = task.await.unwrap().unwrap();
            made += u32::from(matches!(begun, Begun::Made(_)));
            ids.push(begun.volume().id);
        }
        assert_eq!(made, 1);
        ids.dedup();
        assert_eq!(ids.len(), 1);
    }
    let volumes = Volumes::new(subject.open("names/").await);
    assert_eq!(volumes.all().await.unwrap().len(), 10);
    let spec = VolumeSpec {
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..VolumeSpec::new(2 * GIB)
    };
    let other = NewVolume::new("race0", spec, &places(&[1]), node(1)).unwrap();
    let error = volumes.begin_create(&other).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("size is 1073741824, not 2147483648") && text.contains("labels is {}"),
        "{text}"
    );
    for bad in ["", "a/b", "a\nb", &"x".repeat(200)] {
        assert!(
            NewVolume::new(bad, VolumeSpec::new(GIB), &places(&[1]), node(1)).is_err(),
            "{bad}"
        );
    }
    assert!(NewVolume::new("x", VolumeSpec::new(GIB + 1), &places(&[1]), node(1)).is_err());
    assert!(NewVolume::new("x", VolumeSpec::new(GIB), &[], node(1)).is_err());
}

pub async fn life_of_a_volume(subject: &dyn Subject) {
    let volumes = Volumes::new(subject.open("life/").await);
    let wanted = new("größe % 1", &[1], 1);
    let begun = volumes.begin_create(&wanted).await.unwrap();
    assert!(matches!(begun, Begun::Made(_)));
    assert!(
        matches!(volumes.begin_create(&wanted).await.unwrap(), Begun::Made(_)),
        "the same again is the same"
    );
    let id = begun.volume().id;
    assert_eq!(begun.volume().state, VolumeState::Creating);
    let first = begun.volume();
    assert_eq!(
        (first.epoch, first.primary.as_ref().map(|primary| primary.node)),
        (Epoch(1), Some(node(1))),
        "its creator has it"
    );
    assert!(matches!(
        volumes.attach(id, &Attach::on(node(1), "a container")).await,
        Err(VolumeError::State { .. })
    ));
    let early = volumes.finish_create(first).await.unwrap_err();
    assert!(early.to_string().contains("not all of its replicas"), "{early}");
    // A replica of another id on that node is not the one that was made.
    let stranger = [ReplicaId::from_u128(77)];
    let same = volumes.replicas_made(first, node(2), &stranger).await.unwrap();
    assert_eq!(same.as_ref(), Some(first));
    made(&volumes, first, 2).await.unwrap();
    assert!(volumes.finish_create(first).await.is_err(), "not that node's");
    made(&volumes, first, 1).await.unwrap();
    // What is known here is out of date by two changes, and does no harm.
    let done = volumes.finish_create(first).await.unwrap();
    assert_eq!((done.epoch, &done.primary), (Epoch(1), &None));
    assert_eq!(
        volumes.finish_create(first).await.unwrap(),
        done,
        "the second time nothing changes"
    );
    assert_eq!(volumes.by_name("größe % 1").await.unwrap().unwrap(), done);

    let wish = Attach::on(node(1), "container a");
    let attached = volumes.attach(id, &wish).await.unwrap();
    assert_eq!(
        (attached.epoch, volumes.attach(id, &wish).await.unwrap()),
        (Epoch(2), attached.clone())
    );
    let error = volumes.begin_delete("größe % 1", node(1)).await.unwrap_err();
    assert!(error.to_string().contains("by container a"), "{error}");
    volumes
        .set_user(id, wish.attachment, "container b")
        .await
        .unwrap();
    // The daemon was killed and attaches again: the node's own older attachment does not stand in its way.
    let again = Attach::on(node(1), "container c");
    assert_eq!(volumes.attach(id, &again).await.unwrap().epoch, Epoch(3));
    volumes.release(id, node(1), Some(wish.attachment)).await.unwrap();
    assert!(
        volumes.by_id(id).await.unwrap().unwrap().primary.is_some(),
        "an old attachment releases nothing"
    );
    volumes
        .release(id, node(1), Some(again.attachment))
        .await
        .unwrap();
    volumes
        .release(id, node(1), Some(again.attachment))
        .await
        .unwrap();

    volumes.begin_delete("größe % 1", node(1)).await.unwrap();
    assert!(matches!(
        volumes.begin_delete("größe % 1", node(1)).await,
        Err(VolumeError::NoSuch(_))
    ));
    assert!(volumes.by_name("größe % 1").await.unwrap().is_none());
    let late = Attach::on(node(1), "late");
    assert!(matches!(
        volumes.attach(id, &late).await,
        Err(VolumeError::State { .. })
    ));
    assert!(matches!(
        volumes.attach(id, &again).await,
        Err(VolumeError::Replaced { .. })
    ));
    let second = ready(&volumes, "größe % 1", &[1]).await;
    assert_ne!(second.id, id, "the name is free at once");
    assert_eq!(volumes.finish_delete(id, node(1)).await.unwrap(), None);
    assert_eq!(volumes.finish_delete(id, node(1)).await.unwrap(), None);
    assert_eq!(volumes.all().await.unwrap(), [second]);
}

/// Nodes that live race for one volume: one wins each time, and the others are told who.
pub async fn one_owner(subject: &dyn Subject) {
    let store = subject.open("owner/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let id = ready(&volumes, "v", &[1, 2]).await.id;
    let mut leases = Vec::new();
    for id in 1..=4 {
        leases.push(live(&*store, id).await);
    }
    for round in 1..=25 {
        let mut tasks = Vec::new();
        for me in 1..=4 {
            let volumes = Volumes::new(subject.open("owner/").await);
            tasks.push(tokio::spawn(async move {
                (
                    me,
                    volumes
                        .attach(id, &Attach::on(node(me), format!("task {me}")))
                        .await,
                )
            }));
        }
        let (mut winners, mut told) = (Vec::new(), Vec::new());
        for task in tasks {
            match task.await.unwrap() {
                (me, Ok(volume)) => winners.push((me, volume)),
                (_, Err(VolumeError::Attached { primary, .. })) => told.push(primary.node),
                (_, Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let (me, volume) = &winners[0];
        assert_eq!(volume.epoch, Epoch(round + 1));
        assert_eq!(told, [node(*me); 3]);
        for lease in &leases {
            store.keep_alive(lease).await.unwrap();
        }
        volumes
            .release(id, node(*me), Some(held(volume).attachment))
            .await
            .unwrap();
    }
}

/// A holder that lives is never pushed aside; one whose lease has ended is, and hears of it.
pub async fn a_dead_holder_is_replaced(subject: &dyn Subject) {
    let store = subject.open("dead/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let id = ready(&volumes, "v", &[1, 2]).await.id;
    let lease = live(&*store, 1).await;
    let old = volumes.attach(id, &Attach::on(node(1), "old")).await.unwrap();
    let error = volumes.attach(id, &Attach::on(node(2), "new")).await.unwrap_err();
    assert!(matches!(error, VolumeError::Attached { .. }), "{error}");
    assert!(matches!(
        volumes.begin_delete("v", node(2)).await,
        Err(VolumeError::Attached { .. })
    ));
    store.revoke(&lease).await.unwrap();
    let new = volumes.attach(id, &Attach::on(node(2), "new")).await.unwrap();
    assert_eq!(
        (new.epoch, new.primary.as_ref().unwrap().node),
        (Epoch(3), node(2))
    );
    let leave = ReplicaChange::Leave {
        replica: new.replicas[1].id,
        settled: Tick::ZERO,
    };
    let error = volumes
        .change_replicas(id, held(&old), ChangeId::random(), &[leave])
        .await
        .unwrap_err();
    assert!(
        matches!(error, VolumeError::Replaced { found: Epoch(3), .. }),
        "{error}"
    );
    // Nobody keeps node 2 alive either: the volume can be deleted by another one.
    let gone = volumes.begin_delete("v", node(3)).await.unwrap();
    assert_eq!((gone.epoch, gone.state), (Epoch(4), VolumeState::Deleting));
    let error = volumes
        .change_replicas(id, held(&new), ChangeId::random(), &[leave])
        .await
        .unwrap_err();
    assert!(matches!(error, VolumeError::Replaced { .. }), "{error}");
}

pub async fn members_leave_and_come_back(subject: &dyn Subject) {
    let volumes = Volumes::new(subject.open("members/").await);
    let volume = ready(&volumes, "v", &[1, 2]).await;
    let (id, [a, b]) = (volume.id, [volume.replicas[0].id, volume.replicas[1].id]);
    let mut at = volumes.attach(id, &Attach::on(node(1), "")).await.unwrap();
    let settled = Tick::new(Epoch(1), 7);
    let step = async |at: &mut Volume, changes: &[ReplicaChange]| -> Result<(), VolumeError> {
        let change = ChangeId::random();
        let new = volumes.change_replicas(id, held(at), change, changes).await?;
        let again = volumes.change_replicas(id, held(at), change, changes).await?;
        assert_eq!(again, new, "the same change again is the same change");
        *at = new;
        Ok(())
    };
    let leave = |replica| ReplicaChange::Leave { replica, settled };
    step(&mut at, &[leave(b)]).await.unwrap();
    assert_eq!(
        (at.epoch, at.replica(b).unwrap().state),
        (Epoch(3), ReplicaState::Stale { tick: settled })
    );
    assert!(matches!(
        step(&mut at, &[leave(a)]).await,
        Err(VolumeError::LastMember { .. })
    ));
    assert!(matches!(
        step(&mut at, &[leave(b)]).await,
        Err(VolumeError::Replica { .. })
    ));
    assert!(
        step(&mut at, &[ReplicaChange::Join { replica: b }])
            .await
            .is_err(),
        "stale is not rebuilt"
    );
    step(&mut at, &[ReplicaChange::Rebuild { replica: b }])
        .await
        .unwrap();
    step(&mut at, &[ReplicaChange::Abandon { replica: b }])
        .await
        .unwrap();
    assert_eq!(
        (at.epoch, at.replica(b).unwrap().state),
        (Epoch(3), ReplicaState::Stale { tick: settled })
    );
    step(&mut at, &[ReplicaChange::Rebuild { replica: b }])
        .await
        .unwrap();
    step(&mut at, &[ReplicaChange::Join { replica: b }])
        .await
        .unwrap();
    assert_eq!((at.epoch, at.members().count()), (Epoch(4), 2));
    let c = ReplicaId::from_u128(9);
    let place = places(&[3])[0];
    assert!(
        step(&mut at, &[ReplicaChange::Discard { replica: b }])
            .await
            .is_err(),
        "a member is not discarded"
    );
    let add = ReplicaChange::Add { replica: c, place };
    step(&mut at, &[leave(b), add, ReplicaChange::Discard { replica: b }])
        .await
        .unwrap();
    assert!(step(&mut at, &[add]).await.is_err(), "one replica a node");
    assert_eq!(
        (at.epoch, at.replicas.len(), at.members().count()),
        (Epoch(5), 3, 1)
    );
    assert!(
        volumes.replica_removed(id, node(1), a).await.is_err(),
        "a member is not removed"
    );
    assert!(
        volumes.replica_removed(id, node(1), b).await.is_err(),
        "only its own node removes a replica"
    );
    let left = volumes.replica_removed(id, node(2), b).await.unwrap().unwrap();
    assert_eq!((left.replicas.len(), left.epoch), (2, Epoch(5)));
    assert_eq!(
        volumes.replica_removed(id, node(2), b).await.unwrap().unwrap(),
        left
    );
}

/// Answers get lost before and after the change is made, and some changes arrive late: each is made once.
pub async fn lost_answers_change_nothing_twice(subject: &dyn Subject) {
    let plain = subject.open("lossy/").await;
    let lossy = Lossy::new(Arc::clone(&plain), 42);
    let volumes =
        Volumes::new(Arc::clone(&lossy) as Arc<dyn Store>).with_patience(Duration::from_millis(150));
    let truth = Volumes::new(Arc::clone(&plain));
    for name in ["a", "b", "c"] {
        let wanted = new(name, &[1, 2], 1);
        let begun = insist(|| volumes.begin_create(&wanted)).await.unwrap();
        assert!(matches!(begun, Begun::Made(_)), "made by us, whatever was lost");
        let id = begun.volume().id;
        for of in [1, 2] {
            insist(|| made(&volumes, begun.volume(), of)).await.unwrap();
        }
        insist(|| volumes.finish_create(begun.volume())).await.unwrap();
        let (mut epoch, mut at) = (1, truth.by_id(id).await.unwrap().unwrap());
        for _ in 0..6 {
            let wish = Attach::on(node(1), "");
            at = insist(|| volumes.attach(id, &wish)).await.unwrap();
            epoch += 1;
            assert_eq!(at.epoch, Epoch(epoch), "one attachment, one epoch");
            let replica = at.replicas[1].id;
            for change in [
                ReplicaChange::Leave {
                    replica,
                    settled: Tick::ZERO,
                },
                ReplicaChange::Rebuild { replica },
                ReplicaChange::Join { replica },
            ] {
                let by = ChangeId::random();
                let (holds, changes) = (held(&at), [change]);
                at = insist(|| volumes.change_replicas(id, holds, by, &changes))
                    .await
                    .unwrap();
                epoch += u32::from(!matches!(change, ReplicaChange::Rebuild { .. }));
                assert_eq!(at.epoch, Epoch(epoch), "{change:?}");
            }
            insist(|| volumes.release(id, node(1), Some(wish.attachment)))
                .await
                .unwrap();
        }
        // Whatever is still on its way arrives, and changes nothing any more.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let found = truth.by_id(id).await.unwrap().unwrap();
        assert_eq!(
            (found.epoch, found.primary.is_none(), found.members().count()),
            (at.epoch, true, 2)
        );
        insist(|| volumes.begin_delete_of(id, node(1))).await.unwrap();
        insist(|| volumes.finish_delete(id, node(1))).await.unwrap();
        insist(|| volumes.finish_delete(id, node(2))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (left, _) = plain.list("").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    assert!(
        lossy.lost.load(Ordering::Relaxed) > 30,
        "the test lost too little to show anything"
    );
}

pub async fn a_creation_is_undone_by_one(subject: &dyn Subject) {
    let store = subject.open("undo/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let lease = live(&*store, 1).await;
    let begun = volumes.begin_create(&new("v", &[1, 2], 1)).await.unwrap();
    let id = begun.volume().id;
    let refused = volumes.undo_create(id, node(2)).await.unwrap_err();
    assert!(matches!(refused, VolumeError::Creating { .. }), "{refused}");
    let trouble = "its pool is not there".repeat(100);
    let replica = begun.volume().replicas[1].id;
    let told = volumes
        .replica_troubled(id, node(2), replica, Some(&trouble))
        .await
        .unwrap()
        .unwrap();
    let shown = told.replica(replica).unwrap().trouble.clone().unwrap();
    assert!(trouble.starts_with(&shown) && shown.len() == 500);
    made(&volumes, begun.volume(), 2).await.unwrap();
    // Its creator dies while it makes the file system.
    assert!(volumes.undo_create(id, node(2)).await.is_err());
    store.revoke(&lease).await.unwrap();
    let undone = volumes.undo_create(id, node(2)).await.unwrap().unwrap();
    assert_eq!((undone.state, undone.epoch), (VolumeState::Deleting, Epoch(1)));
    assert_eq!(
        volumes.undo_create(id, node(3)).await.unwrap().unwrap(),
        undone,
        "once is enough"
    );
    assert!(volumes.finish_create(begun.volume()).await.is_err());
    // The name is free at once, the files go in their own time.
    let again = ready(&volumes, "v", &[3]).await;
    assert!(matches!(
        volumes.undo_create(again.id, node(3)).await,
        Err(VolumeError::State { .. })
    ));
    volumes.finish_delete(id, node(1)).await.unwrap();
    assert!(volumes.finish_delete(id, node(2)).await.unwrap().is_none());
}

pub async fn a_holder_is_asked(subject: &dyn Subject) {
    let store = subject.open("want/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let id = ready(&volumes, "v", &[1]).await.id;
    let wish = |of: u128| Wanted {
        node: node(of),
        since: Timestamp::now(),
        user: "a container".to_owned(),
    };
    assert_eq!(
        volumes.want(id, &wish(2)).await.unwrap().wanted,
        None,
        "it is free"
    );
    volumes.attach(id, &Attach::on(node(1), "")).await.unwrap();
    let asked = volumes.want(id, &wish(2)).await.unwrap();
    assert_eq!(asked.wanted.as_ref().unwrap().node, node(2));
    let third = volumes.want(id, &wish(3)).await.unwrap();
    assert_eq!(third.wanted, asked.wanted, "one is enough to ask");
    volumes.unwant(id, node(3)).await.unwrap();
    volumes.release(id, node(1), None).await.unwrap();
    let taken = volumes.attach(id, &Attach::on(node(2), "")).await.unwrap();
    assert_eq!((taken.epoch, &taken.wanted), (Epoch(3), &None));
    volumes.want(id, &wish(3)).await.unwrap();
    volumes.unwant(id, node(3)).await.unwrap();
    assert_eq!(volumes.by_id(id).await.unwrap().unwrap().wanted, None);
}

pub async fn a_machine_swaps(subject: &dyn Subject) {
    let store = subject.open("machine/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let id = ready(&volumes, "v", &[1, 2]).await.id;
    let at = volumes.attach(id, &Attach::on(node(1), "")).await.unwrap();
    let seen = engine_record(&at);
    let change = engine::ChangeId {
        term: at.epoch,
        count: 1,
    };
    let left = seen
        .with_states(
            &[(at.replicas[1].id, MemberState::Stale(Tick::new(Epoch(1), 3)))],
            change,
        )
        .unwrap();
    // Others change the record in between, and what is known here may be out of date.
    let wish = Wanted {
        node: node(2),
        since: Timestamp::now(),
        user: String::new(),
    };
    let asked = volumes.want(id, &wish).await.unwrap();
    let early = volumes.swap_as_primary(id, at.revision, &left, Some(&at)).await;
    assert!(matches!(early, Swap::Conflict), "{early:?}");
    let Swap::Applied(done) = volumes.swap_as_primary(id, asked.revision, &left, None).await else {
        panic!("not made");
    };
    assert_eq!(
        (engine_record(&done), &done.wanted),
        (left.clone(), &asked.wanted)
    );
    // Its answer is lost, and it is asked for again: it is not made twice, and its author knows it.
    let again = volumes.swap_as_primary(id, asked.revision, &left, None).await;
    assert!(matches!(again, Swap::Conflict), "{again:?}");
    let found = volumes.by_id(id).await.unwrap().unwrap();
    assert_eq!(
        (found.revision, engine_record(&found).change),
        (done.revision, change)
    );
    // Taken over: whatever the old primary asks for is refused.
    volumes.release(id, node(1), None).await.unwrap();
    let taken = volumes.attach(id, &Attach::on(node(2), "")).await.unwrap();
    let late = volumes
        .swap_as_primary(id, taken.revision, &left, Some(&taken))
        .await;
    assert!(matches!(late, Swap::Conflict), "{late:?}");
    assert_eq!(volumes.by_id(id).await.unwrap().unwrap(), taken);
}

/// One that a living node has only for its replicas is in nobody's use, and its rebuild ends with the epoch.
pub async fn upkeep_is_no_use(subject: &dyn Subject) {
    let store = subject.open("upkeep/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let tended = ready(&volumes, "tended", &[1, 2]).await.id;
    let lease = live(&*store, 1).await;
    let at = volumes
        .attach(tended, &Attach::for_upkeep(node(1)))
        .await
        .unwrap();
    assert_eq!(at.user_node(), None);
    let going = volumes.begin_delete("tended", node(2)).await.unwrap();
    assert_eq!(
        (going.state, going.epoch.0, &going.primary),
        (VolumeState::Deleting, at.epoch.0 + 1, &None)
    );
    let used = ready(&volumes, "used", &[1]).await.id;
    volumes
        .attach(used, &Attach::on(node(1), "a container"))
        .await
        .unwrap();
    for asking in [1, 2] {
        let refused = volumes.begin_delete("used", node(asking)).await.unwrap_err();
        assert!(matches!(refused, VolumeError::Attached { .. }), "{refused}");
    }
    store.revoke(&lease).await.unwrap();
}

/// A replica more than asked for leaves a volume that nobody has, once, and never the last one.
pub async fn a_surplus_member_leaves(subject: &dyn Subject) {
    let store = subject.open("surplus/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let known = ready(&volumes, "v", &[1, 2]).await;
    let (first, second) = (known.replicas[0].id, known.replicas[1].id);
    let held = volumes.attach(known.id, &Attach::on(node(1), "")).await.unwrap();
    // Judged before somebody has taken it.
    let early = volumes.drop_member(&known, second).await.unwrap_err();
    assert!(matches!(early, VolumeError::Busy(_)), "{early}");
    let attachment = held.primary.as_ref().map(|primary| primary.attachment);
    let free = volumes
        .release(known.id, node(1), attachment)
        .await
        .unwrap()
        .unwrap();
    let left = volumes.drop_member(&free, second).await.unwrap();
    assert_eq!((left.epoch.0, left.members().count()), (free.epoch.0 + 1, 1));
    assert_eq!(
        left.replica(second).map(|replica| replica.state),
        Some(ReplicaState::Removing)
    );
    assert!(matches!(
        volumes.drop_member(&free, second).await,
        Err(VolumeError::Busy(_))
    ));
    assert!(matches!(
        volumes.drop_member(&left, first).await,
        Err(VolumeError::LastMember { .. })
    ));
}

pub async fn delete_waits_for_every_replica(subject: &dyn Subject) {
    let store = subject.open("delete/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let id = ready(&volumes, "v", &[1, 2]).await.id;
    let error = volumes.finish_delete(id, node(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::State { .. }), "{error}");
    // Half made ones go the same way.
    let half = volumes
        .begin_create(&new("half", &[2], 2))
        .await
        .unwrap()
        .volume()
        .clone();
    volumes.begin_delete("half", node(1)).await.unwrap();
    assert!(matches!(
        volumes.finish_create(&half).await,
        Err(VolumeError::State { .. })
    ));
    volumes.finish_delete(half.id, node(2)).await.unwrap();
    volumes.begin_delete("v", node(1)).await.unwrap();
    let left = volumes.finish_delete(id, node(1)).await.unwrap().unwrap();
    assert_eq!(
        left.replicas_on(node(2)).count(),
        1,
        "node 2 is away; its replica is not forgotten"
    );
    assert_eq!(volumes.finish_delete(id, node(2)).await.unwrap(), None);
    assert!(store.list("").await.unwrap().0.is_empty());
}

/// The last resort: one replica goes on alone, whoever served it is fenced, and no old replica is ever compared with it.
pub async fn a_primary_is_forced(subject: &dyn Subject) {
    let store = subject.open("force/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let volume = ready(&volumes, "v", &[1, 2, 3]).await;
    let lease = live(&*store, 1).await;
    let attached = volumes
        .attach(volume.id, &Attach::on(node(1), "db"))
        .await
        .unwrap();
    let [first, second, third] = [0, 1, 2].map(|n| volume.replicas[n].id);
    let settled = Tick::new(attached.epoch, 9);
    let left = ReplicaChange::Leave {
        replica: second,
        settled,
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    let left = volumes
        .change_replicas(volume.id, held(&attached), ChangeId::random(), &[left])
        .await
        .unwrap();
    let since = |volume: &Volume, id| volume.replica(id).unwrap().since;
    assert!(
        since(&left, second) > since(&left, first),
        "it left later than the others joined"
    );

    let wish = |by: u128, replica| Force {
        replica,
        node: node(by),
        seen: Epoch(0),
        change: ChangeId::random(),
    };
    for by in [1, 2] {
        let refused = volumes.force(volume.id, &wish(by, second)).await;
        assert!(
            matches!(refused, Err(VolumeError::Attached { .. })),
            "it is attached on a node that lives"
        );
    }
    store.revoke(&lease).await.unwrap();
    let stranger = wish(2, ReplicaId::from_u128(77));
    assert!(matches!(
        volumes.force(volume.id, &stranger).await,
        Err(VolumeError::Replica { .. })
    ));

    // The disk may know a newer epoch than a store that was restored from an older copy.
    let seen = Force {
        seen: Epoch(left.epoch.0 + 5),
        ..wish(2, second)
    };
    let forced = volumes.force(volume.id, &seen).await.unwrap();
    assert_eq!(
        (forced.epoch, forced.primary.as_ref()),
        (Epoch(left.epoch.0 + 6), None)
    );
    let members: Vec<ReplicaId> = forced.members().map(|replica| replica.id).collect();
    assert_eq!(members, [second]);
    for (n, old) in [(0, first), (2, third)] {
        let replica = &forced.replicas[n];
        let stale = ReplicaState::Stale { tick: Tick::ZERO };
        assert_eq!(
            (replica.state, replica.made, replica.replaces),
            (stale, false, Some(old))
        );
        assert_ne!(replica.id, old, "its stamps are of a history that was given up");
        assert_eq!(
            (replica.node, replica.pool),
            (volume.replicas[n].node, volume.replicas[n].pool)
        );
    }
    // As the machines' simulation has it.
    assert_eq!(
        Some(engine_record(&forced)),
        engine_record(&left).forced(second, [seen.seen]),
    );
    let again = volumes.force(volume.id, &seen).await.unwrap();
    assert_eq!(again, forced, "the same wish makes no second change");

    // Who served it before cannot change it any more.
    let late = ReplicaChange::Leave {
        replica: third,
        settled,
    };
    assert!(matches!(
        volumes
            .change_replicas(volume.id, held(&left), ChangeId::random(), &[late])
            .await,
        Err(VolumeError::Replaced { .. })
    ));
    assert!(matches!(
        volumes
            .swap_as_primary(volume.id, left.revision, &engine_record(&left), Some(&left))
            .await,
        Swap::Conflict
    ));
    // Once more: what has not been made is new as it is.
    let twice = volumes.force(volume.id, &wish(2, second)).await.unwrap();
    assert_eq!(twice.replicas[0].id, forced.replicas[0].id);
    let unmade = wish(2, twice.replicas[0].id);
    assert!(matches!(
        volumes.force(volume.id, &unmade).await,
        Err(VolumeError::Replica { .. })
    ));
    let going = volumes.begin_delete("v", node(2)).await.unwrap();
    assert!(matches!(
        volumes.force(going.id, &wish(2, second)).await,
        Err(VolumeError::State { .. })
    ));
}

pub async fn a_replica_is_to_be_elsewhere(subject: &dyn Subject) {
    let store = subject.open("moving/").await;
    let volumes = Volumes::new(Arc::clone(&store));
    let volume = ready(&volumes, "v", &[1, 2]).await;
    let [first, second] = [volume.replicas[0].id, volume.replicas[1].id];
    let to = places(&[3])[0];
    // Not where one is already, nor twice.
    let taken = volumes.move_replica(volume.id, first, places(&[2])[0]).await;
    assert_eq!(taken.unwrap(), None);
    let marked = volumes.move_replica(volume.id, first, to).await.unwrap().unwrap();
    assert_eq!(marked.replica(first).unwrap().moves_to, Some(to));
    assert_eq!(marked.epoch, volume.epoch, "it is a wish, and changes no member");
    let other = places(&[4])[0];
    assert_eq!(volumes.move_replica(volume.id, first, other).await.unwrap(), None);
    let stopped = volumes.stop_moving(volume.id).await.unwrap().unwrap();
    assert_eq!(stopped.replicas, volume.replicas);

    // One that has begun is brought to its end, and the others are not.
    volumes.move_replica(volume.id, first, to).await.unwrap().unwrap();
    volumes
        .move_replica(volume.id, second, other)
        .await
        .unwrap()
        .unwrap();
    let attached = volumes
        .attach(volume.id, &Attach::on(node(1), "a"))
        .await
        .unwrap();
    let added = ReplicaId::from_u128(77);
    let add = ReplicaChange::Add {
        replica: added,
        place: to,
    };
    let begun = volumes
        .change_replicas(volume.id, held(&attached), ChangeId::random(), &[add])
        .await
        .unwrap();
    assert!(begun.has_begun(to) && !begun.has_begun(other));
    let stopped = volumes.stop_moving(volume.id).await.unwrap().unwrap();
    let goes: Vec<_> = stopped.replicas.iter().map(|replica| replica.moves_to).collect();
    assert_eq!(goes, [Some(to), None, None]);
    let not_in_order = volumes.move_replica(volume.id, second, other).await.unwrap();
    assert_eq!(not_in_order, None, "one of its replicas is not in sync");
}

pub async fn classes(subject: &dyn Subject) {
    let store = subject.open("classes/").await;
    let classes = Classes::new(Arc::clone(&store));
    assert_eq!(classes.for_volume(None).await.unwrap(), None);
    let replicated = ClassRecord {
        repl: Some(2),
        io_priority: Some(IoPriority::High),
        ..ClassRecord::new("replicated")
    };
    classes.create(&replicated, true).await.unwrap();
    classes.create(&replicated, false).await.unwrap();
    let other = ClassRecord {
        repl: Some(3),
        ..replicated.clone()
    };
    assert!(matches!(
        classes.create(&other, false).await,
        Err(ClassError::Exists(_))
    ));
    classes.create(&ClassRecord::new("plain"), false).await.unwrap();
    let (all, default) = classes.list().await.unwrap();
    let names: Vec<_> = all.iter().map(|class| class.name.as_str()).collect();
    assert_eq!(
        (names, default.as_deref()),
        (vec!["plain", "replicated"], Some("replicated"))
    );
    assert_eq!(classes.for_volume(None).await.unwrap().unwrap().repl, Some(2));
    assert_eq!(
        classes.for_volume(Some("plain")).await.unwrap().unwrap().repl,
        None
    );
    let error = classes.for_volume(Some("plian")).await.unwrap_err();
    assert!(
        error.to_string().contains("there are: plain, replicated"),
        "{error}"
    );
    classes.set_default("plain").await.unwrap();
    classes.delete("replicated").await.unwrap();
    assert_eq!(classes.list().await.unwrap().1.as_deref(), Some("plain"));
    // Without it, volumes would come out differently from now on without a word.
    let refused = classes.delete("plain").await.unwrap_err().to_string();
    assert!(refused.contains("--none"), "{refused}");
    classes.clear_default().await.unwrap();
    classes.clear_default().await.unwrap();
    assert_eq!(classes.for_volume(None).await.unwrap(), None);
    classes.delete("plain").await.unwrap();
    assert!(matches!(
        classes.delete("plain").await,
        Err(ClassError::NoSuch { .. })
    ));
    assert!(store.list("").await.unwrap().0.is_empty());
    let damaged = store.commit(Txn::new().put("classes/bad", "{}")).await;
    assert!(damaged.is_ok());
    assert!(
        classes.list().await.unwrap().0.is_empty(),
        "a damaged record hides no other"
    );
    assert!(matches!(classes.get("bad").await, Err(ClassError::Schema(_))));
}
