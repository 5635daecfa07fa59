//! Records survive the way to the store and back, versions are told apart, names stay in their place.

use bulkhead_engine::geometry::Geometry;
use bulkhead_engine::ids::{Epoch, NodeId, PoolId, ReplicaId, Tick, VolumeId};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::store::check_key;

fn volume() -> VolumeRecord {
    let node = NodeId::from_u128(7);
    VolumeRecord {
        id: VolumeId::from_u128(1),
        name: "v1".to_owned(),
        spec: VolumeSpec {
            repl: 2,
            io_priority: Some(IoPriority::High),
            ..VolumeSpec::new(1 << 30)
        },
        geometry: Geometry::for_size(1 << 30).unwrap(),
        state: VolumeState::Ready,
        epoch: Epoch(3),
        primary: Some(Primary {
            upkeep: false,
            node,
            attachment: ChangeId::random(),
            since: Timestamp::now(),
            user: "container".to_owned(),
        }),
        wanted: Some(Wanted {
            node: NodeId::from_u128(8),
            since: Timestamp::now(),
            user: String::new(),
        }),
        change: Some(PrimaryChange {
            term: Epoch(2),
            count: 1,
        }),
        replicas: vec![
            Replica {
                made: true,
                ..Replica::new(
                    ReplicaId::from_u128(2),
                    node,
                    PoolId::from_u128(3),
                    ReplicaState::Member,
                )
            },
            Replica::new(
                ReplicaId::from_u128(4),
                NodeId::from_u128(8),
                PoolId::from_u128(5),
                ReplicaState::Stale {
                    tick: Tick::new(Epoch(2), 9),
                },
            ),
        ],
        creator: node,
        created_at: Timestamp(1),
        changes: Vec::new(),
        extra: Extra::new(),
    }
}

#[test]
fn a_record_comes_back_as_it_was() {
    let record = volume();
    let bytes = encode("k", &record).unwrap();
    assert_eq!(decode::<VolumeRecord>("k", &bytes).unwrap(), record);
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["v"], 1);
    assert_eq!(json["replicas"][1]["state"]["is"], "stale");
}

/// The record that the first release wrote, byte for byte: every later one must read it.
#[test]
fn the_first_release_can_be_read() {
    let first = r#"{"v":1,"id":"00000000-0000-0000-0000-000000000001","name":"v1","spec":{"size":1073741824,"repl":1,
        "fs":"ext4"},"geometry":{"size":1073741824,"chunk_size":65536,"region_size":4194304},"state":"ready","epoch":1,
        "replicas":[{"id":"00000000-0000-0000-0000-000000000002","node":"00000000-0000-0000-0000-000000000007",
        "pool":"00000000-0000-0000-0000-000000000003","state":{"is":"member"}}],
        "creator":"00000000-0000-0000-0000-000000000007","created_at":1}"#;
    let record: VolumeRecord = decode("k", first.as_bytes()).unwrap();
    assert_eq!((record.epoch, record.members().count()), (Epoch(1), 1));
    assert!(record.replicas[0].made, "whoever wrote it said nothing of it");
    assert_eq!((&record.wanted, record.change), (&None, None));
}

#[test]
fn what_a_newer_version_added_is_kept() {
    let mut json: Value = serde_json::from_slice(&encode("k", &volume()).unwrap()).unwrap();
    json["snapshots"] = serde_json::json!(["s1"]);
    json["spec"]["shared"] = serde_json::json!(true);
    json["replicas"][1]["cache"] = serde_json::json!(7);
    let record: VolumeRecord = decode("k", json.to_string().as_bytes()).unwrap();
    let again: Value = serde_json::from_slice(&encode("k", &record).unwrap()).unwrap();
    assert_eq!(
        (&again["snapshots"][0], &again["spec"]["shared"]),
        (&serde_json::json!("s1"), &Value::Bool(true))
    );
    assert_eq!(again["replicas"][1]["cache"], 7);
}

#[test]
fn a_newer_or_damaged_record_is_refused() {
    let newer = decode::<NameRecord>("names/x", br#"{"v":2,"volume":"x"}"#).unwrap_err();
    assert!(matches!(newer, SchemaError::Newer { found: 2, .. }), "{newer}");
    assert!(newer.to_string().contains("upgrade this node"));
    for bad in [
        "",
        "[]",
        "{}",
        "null",
        r#"{"v":0}"#,
        r#"{"v":-1}"#,
        r#"{"v":"1"}"#,
        r#"{"v":1}"#,
        r#"{"v":1e99}"#,
    ] {
        assert!(decode::<NameRecord>("names/x", bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_geometry_that_cannot_be_is_refused() {
    let mut json: Value = serde_json::from_slice(&encode("k", &volume()).unwrap()).unwrap();
    json["geometry"]["chunk_size"] = 0.into();
    let error = decode::<VolumeRecord>("k", json.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("chunks of 0"), "{error}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Third {
    whole: u32,
}

impl Record for Third {
    const KIND: &'static str = "example";
    const VERSION: u32 = 3;

    fn migrate(from: u32, fields: &mut Map<String, Value>) -> Result<(), String> {
        match from {
            1 => {
                let part = fields.remove("part").ok_or("no part")?;
                fields.insert("half".to_owned(), part);
            }
            2 => {
                let half = fields
                    .remove("half")
                    .and_then(|half| half.as_u64())
                    .ok_or("no half")?;
                fields.insert("whole".to_owned(), (half * 2).into());
            }
            _ => return Err(format!("unknown version {from}")),
        }
        Ok(())
    }
}

#[test]
fn older_versions_are_brought_up_step_by_step() {
    for old in [
        r#"{"v":1,"part":4}"#,
        r#"{"v":2,"half":4}"#,
        r#"{"v":3,"whole":8}"#,
    ] {
        assert_eq!(decode::<Third>("k", old.as_bytes()).unwrap(), Third { whole: 8 });
    }
    assert!(decode::<Third>("k", br#"{"v":1,"half":4}"#).is_err());
}

#[test]
fn differences_are_named() {
    let have = VolumeSpec::new(1 << 30);
    let asked = VolumeSpec {
        repl: 2,
        group: Some("db".to_owned()),
        ..VolumeSpec::new(1 << 30)
    };
    assert_eq!(
        have.differences(&asked),
        ["group is not set, not db", "repl is 1, not 2"]
    );
    assert!(have.differences(&have.clone()).is_empty());
}

proptest! {
    #[test]
    fn a_name_stays_in_its_place(name in "\\PC{1,40}") {
        if check_name(&name).is_ok() {
            let key = name_key(&name).unwrap();
            let encoded = key.strip_prefix(NAMES).unwrap();
            prop_assert!(check_key(&key).is_ok() && !encoded.contains('/') && !encoded.starts_with('.'));
            prop_assert_eq!(decode_name(encoded), Some(name));
        }
    }

    #[test]
    fn no_bytes_bring_the_decoder_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode::<VolumeRecord>("k", &bytes).is_err());
    }

    #[test]
    fn moments_can_always_be_shown(ms: u64) {
        prop_assert!(!Timestamp(ms).to_string().is_empty());
    }
}
