//! The driver's protocol over a real Unix socket: each trap of docs/docker.md, with volumes that can be made slow, stuck
//! or unreachable. The same calls against the real daemon are in `daemon`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::shelf::{Bed, SHORT, eventually};
use bulkhead::docker::Deadlines;
use serde_json::{Value, json};

fn bed() -> Bed {
    Bed::new(Deadlines::default())
}

#[test]
fn activate_and_capabilities() {
    let bed = bed();
    assert_eq!(bed.docker.activate(), json!({"Implements": ["VolumeDriver"]}));
    let answer = bed.docker.call("VolumeDriver.Capabilities", &json!({})).ok();
    assert_eq!(answer["Capabilities"], json!({"Scope": "global"}));
}

#[test]
fn create_takes_null_options_and_no_options_at_all() {
    let bed = bed();
    bed.docker.create("a", Value::Null).ok();
    bed.docker.call("VolumeDriver.Create", &json!({"Name": "b"})).ok();
    bed.docker.create("c", json!({})).ok();
    assert_eq!(bed.docker.list(), ["a", "b", "c"]);
}

#[test]
fn calls_are_idempotent() {
    let bed = bed();
    bed.docker.create("v", json!({"size": "2G"})).ok();
    bed.docker.create("v", json!({"size": "2048M"})).ok();
    bed.docker
        .create("v", json!({"size": "3G"}))
        .refused("exists and differs");
    bed.docker.remove("v").ok();
    bed.docker.remove("v").ok();
    bed.docker.get("v").refused("there is no volume \"v\"");
}

#[test]
fn a_volume_that_is_being_created_is_none_yet() {
    let bed = bed();
    bed.docker.create("v", Value::Null).ok();
    if let Some(kept) = bed.shelf.volumes.lock().get_mut("v") {
        kept.creating = true;
    }
    bed.docker.get("v").refused("there is no volume");
    assert!(bed.docker.list().is_empty());
}

#[test]
fn options_that_are_not_understood_are_refused() {
    let bed = bed();
    bed.docker
        .create("v", json!({"sise": "2G"}))
        .refused("did you mean \"size\"");
    bed.docker
        .create("v", json!({"secure": "true"}))
        .refused("not available yet");
    bed.docker
        .create("size=1G,repl=2", json!({}))
        .refused("need name= among them");
    bed.docker
        .call("VolumeDriver.Create", &json!({"Name": "v", "Opts": {"size": 3}}))
        .refused("not what Docker sends");
    assert!(bed.docker.list().is_empty());
}

#[test]
fn an_inline_spec_is_echoed_and_its_drift_shown() {
    let bed = bed();
    let spec = "size=2G,repl=1,name=demo";
    bed.docker.get(spec).refused("there is no volume \"demo\"");
    bed.docker.create(spec, Value::Null).ok();
    assert_eq!(bed.docker.get(spec).ok()["Volume"]["Name"], spec);
    assert_eq!(bed.docker.get("demo").ok()["Volume"]["Name"], "demo");
    assert!(
        bed.docker.get(spec).ok()["Volume"]["Status"]
            .get("Drift")
            .is_none()
    );
    let other = bed.docker.get("size=5G,name=demo").ok();
    assert_eq!(
        other["Volume"]["Status"]["Drift"],
        json!(["size: asked for 5 GiB, is 2 GiB"])
    );
    bed.docker
        .get("sise=5G,name=demo")
        .refused("did you mean \"size\"");
    assert_eq!(bed.docker.list(), ["demo"]);
    // Both names are one volume, also when it is mounted.
    bed.docker.mount(spec, "c1").ok();
    bed.docker.mount("demo", "c2").ok();
    bed.docker.unmount(spec, "c1").ok();
    assert!(bed.shelf.is_mounted("demo"));
    bed.docker.unmount("demo", "c2").ok();
    assert!(!bed.shelf.is_mounted("demo"));
}

/// The columns of what dockerd calls when: create, run, cp, stop, rm.
#[test]
fn a_containers_life() {
    let bed = bed();
    let docker = &bed.docker;
    docker.get("v").refused("no volume");
    docker.create("v", Value::Null).ok();
    // run: copy-up of the image's data, then the container.
    docker.get("v").ok();
    docker.get("v").ok();
    assert_eq!(docker.mount("v", "a").ok()["Mountpoint"], "/mnt/v");
    docker.get("v").ok();
    docker.unmount("v", "a").ok();
    assert_eq!(docker.mountpoint("v"), "");
    docker.get("v").ok();
    docker.mount("v", "b").ok();
    assert_eq!(docker.mountpoint("v"), "/mnt/v");
    assert_eq!(docker.path("v").ok()["Mountpoint"], "/mnt/v");
    // docker cp: the container's own ID again, and one Unmount.
    docker.mount("v", "b").ok();
    docker.unmount("v", "b").ok();
    assert!(bed.shelf.is_mounted("v"), "the container still runs");
    docker.remove("v").refused("is attached");
    // stop, rm
    docker.get("v").ok();
    docker.unmount("v", "b").ok();
    assert!(!bed.shelf.is_mounted("v"));
    docker.remove("v").ok();
    assert!(docker.list().is_empty());
}

#[test]
fn two_containers_share_a_volume() {
    let bed = bed();
    bed.docker.create("v", Value::Null).ok();
    bed.docker.mount("v", "a").ok();
    bed.docker.mount("v", "b").ok();
    assert_eq!(bed.docker.get("v").ok()["Volume"]["Status"]["Mounts"], 2);
    bed.docker.unmount("v", "a").ok();
    assert!(bed.shelf.is_mounted("v"));
    bed.docker.unmount("v", "b").ok();
    assert!(!bed.shelf.is_mounted("v"));
}

#[test]
fn an_unknown_unmount_is_a_success() {
    let bed = bed();
    bed.docker.unmount("never", "x").ok();
    bed.docker.unmount("not/a name", "x").ok();
    bed.docker.create("v", Value::Null).ok();
    bed.docker.mount("v", "a").ok();
    bed.docker.unmount("v", "late one").ok();
    assert!(
        bed.shelf.is_mounted("v"),
        "an Unmount of another ID takes nothing away"
    );
}

#[test]
fn dockerd_killed_with_its_containers_uses_the_same_id_again() {
    let bed = bed();
    bed.docker.activate();
    bed.docker.create("v", Value::Null).ok();
    bed.docker.mount("v", "a").ok();
    bed.docker.activate();
    bed.docker.mount("v", "a").ok();
    bed.docker.unmount("v", "a").ok();
    assert!(!bed.shelf.is_mounted("v"), "one container, one Unmount");
}

#[test]
fn live_restore_sends_only_the_unmount_of_the_old_id() {
    let bed = bed();
    bed.shelf.used_elsewhere.store(true, Ordering::SeqCst);
    bed.docker.create("v", Value::Null).ok();
    bed.docker.mount("v", "a").ok();
    bed.docker.activate();
    std::thread::sleep(Duration::from_millis(400));
    assert!(bed.shelf.is_mounted("v"), "its container lives on");
    bed.docker.unmount("v", "a").ok();
    assert!(!bed.shelf.is_mounted("v"));
}

#[test]
fn what_no_container_of_the_earlier_dockerd_uses_is_let_go() {
    let bed = bed();
    bed.docker.create("v", Value::Null).ok();
    bed.docker.create("w", Value::Null).ok();
    bed.docker.mount("v", "a").ok();
    bed.docker.mount("w", "b").ok();
    bed.docker.activate();
    bed.docker.mount("w", "b").ok();
    assert!(
        eventually(|| !bed.shelf.is_mounted("v")),
        "no Unmount ever comes for it"
    );
    assert!(bed.shelf.is_mounted("w"));
    assert_eq!(bed.driver.table().users("v"), 0);
}

#[test]
fn get_never_says_no_when_it_does_not_know() {
    let bed = Bed::new(SHORT);
    bed.docker.create("v", Value::Null).ok();
    bed.shelf.lost.store(true, Ordering::SeqCst);
    assert!(
        bed.docker.post("VolumeDriver.Get", b"{\"Name\":\"v\"}").is_none(),
        "closed without an answer"
    );
    assert!(
        bed.docker.post("VolumeDriver.Get", b"").is_none(),
        "the retry after a broken connection"
    );
    bed.docker
        .call("VolumeDriver.List", &json!({}))
        .refused("store cannot be reached");
    bed.shelf.lost.store(false, Ordering::SeqCst);
    bed.docker.get("v").ok();
    // Before the daemon is ready it does not know either.
    bed.gate.send_replace(None);
    assert!(bed.docker.post("VolumeDriver.Get", b"{\"Name\":\"v\"}").is_none());
    bed.docker.mount("v", "a").refused("still starting");
    assert_eq!(
        bed.docker.activate()["Implements"][0],
        "VolumeDriver",
        "these two answer at once"
    );
    bed.docker.call("VolumeDriver.Capabilities", &json!({})).ok();
}

#[test]
fn calls_wait_for_the_daemon_to_be_ready() {
    let bed = bed();
    let service = bed.gate.send_replace(None);
    let docker = bed.docker.clone();
    let caller = std::thread::spawn(move || docker.create("v", Value::Null).ok());
    std::thread::sleep(Duration::from_millis(200));
    assert!(bed.shelf.volumes.lock().is_empty());
    bed.gate.send_replace(service);
    caller.join().expect("created");
    assert!(bed.shelf.volumes.lock().contains_key("v"));
}

#[test]
fn a_mount_that_nobody_waits_for_is_undone() {
    let bed = Bed::new(SHORT);
    bed.docker.create("v", Value::Null).ok();
    *bed.shelf.slow.lock() = Duration::from_millis(900);
    bed.docker.mount("v", "a").refused("takes longer than");
    assert!(
        eventually(|| bed.shelf.mounts.load(Ordering::SeqCst) == 1),
        "the work went on"
    );
    assert!(eventually(|| !bed.shelf.is_mounted("v")), "and was undone");
    assert_eq!(bed.driver.table().users("v"), 0);
}

#[test]
fn a_client_that_goes_away_takes_its_mount_with_it_but_not_its_create() {
    let bed = bed();
    *bed.shelf.slow.lock() = Duration::from_millis(300);
    bed.docker.call_and_leave(
        "VolumeDriver.Create",
        &json!({"Name": "v"}),
        Duration::from_millis(100),
    );
    assert!(
        eventually(|| bed.shelf.volumes.lock().contains_key("v")),
        "the create goes on"
    );
    bed.docker.call_and_leave(
        "VolumeDriver.Mount",
        &json!({"Name": "v", "ID": "a"}),
        Duration::from_millis(100),
    );
    assert!(eventually(|| bed.shelf.mounts.load(Ordering::SeqCst) == 1));
    assert!(
        eventually(|| bed.shelf.unmounts.load(Ordering::SeqCst) == 1),
        "the mount is undone"
    );
    *bed.shelf.slow.lock() = Duration::ZERO;
    // One that another container has too is only counted down.
    bed.docker.mount("v", "b").ok();
    *bed.shelf.slow.lock() = Duration::from_millis(300);
    bed.docker.call_and_leave(
        "VolumeDriver.Mount",
        &json!({"Name": "v", "ID": "c"}),
        Duration::from_millis(100),
    );
    std::thread::sleep(Duration::from_millis(900));
    assert!(bed.shelf.is_mounted("v"));
    assert_eq!(bed.driver.table().users("v"), 1);
}

#[test]
fn a_stuck_volume_holds_up_no_other_and_no_question() {
    let bed = bed();
    bed.docker.create("stuck", Value::Null).ok();
    bed.docker.create("other", Value::Null).ok();
    *bed.shelf.slow.lock() = Duration::from_secs(3);
    let docker = bed.docker.clone();
    let caller = std::thread::spawn(move || docker.mount("stuck", "a").ok());
    std::thread::sleep(Duration::from_millis(100));
    *bed.shelf.slow.lock() = Duration::ZERO;
    let start = Instant::now();
    bed.docker.get("stuck").ok();
    assert_eq!(bed.docker.list().len(), 2);
    bed.docker.mount("other", "b").ok();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    caller.join().expect("mounted in the end");
}

#[test]
fn a_busy_volume_says_what_is_under_way() {
    let bed = Bed::new(Deadlines {
        call: Duration::from_millis(300),
        ..Deadlines::default()
    });
    bed.docker.create("v", Value::Null).ok();
    *bed.shelf.slow.lock() = Duration::from_secs(2);
    let docker = bed.docker.clone();
    let caller = std::thread::spawn(move || docker.mount("v", "a").ok());
    std::thread::sleep(Duration::from_millis(200));
    let text = bed.docker.remove("v").error().to_owned();
    assert!(
        text.contains("being mounted since") || text.contains("takes longer"),
        "{text}"
    );
    caller.join().expect("mounted in the end");
}

#[test]
fn a_race_of_mounts_and_unmounts_ends_as_counted() {
    let bed = bed();
    bed.docker.create("v", Value::Null).ok();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let docker = bed.docker.clone();
            scope.spawn(move || {
                for round in 0..25 {
                    let id = format!("{worker}-{round}");
                    docker.mount("v", &id).ok();
                    assert_eq!(docker.mountpoint("v"), "/mnt/v", "mounted while this one has it");
                    docker.unmount("v", &id).ok();
                }
            });
        }
    });
    assert!(!bed.shelf.is_mounted("v"));
    assert!(bed.driver.table().is_empty());
}

#[test]
fn malformed_requests_are_answered_in_words() {
    let bed = bed();
    for endpoint in [
        "Create",
        "Remove",
        "Mount",
        "Unmount",
        "Path",
        "List",
        "Capabilities",
    ] {
        let endpoint = format!("VolumeDriver.{endpoint}");
        bed.docker
            .post(&endpoint, b"")
            .expect("an answer")
            .refused("has no body");
        for body in ["{", "[1]", "null", "\"x\"", "\u{0}", "{\"Name\":7}"] {
            if body == "{\"Name\":7}" && (endpoint.ends_with("List") || endpoint.ends_with("Capabilities")) {
                continue;
            }
            bed.docker
                .post(&endpoint, body.as_bytes())
                .expect("an answer")
                .refused("not what Docker sends");
        }
    }
    bed.docker
        .post("VolumeDriver.Grow", b"{}")
        .expect("an answer")
        .refused("unknown endpoint \"/VolumeDriver.Grow\"");
    let reply = bed
        .docker
        .raw(b"GET /VolumeDriver.List HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("a reply");
    crate::client::parse(&reply)
        .expect("an answer")
        .refused("use POST");
    let reply = bed
        .docker
        .raw(b"\x16\x03\x01 not http at all\r\n\r\n")
        .expect("a reply");
    assert_eq!(crate::client::parse(&reply).map(|reply| reply.status), Some(400));
    let large = vec![b' '; (1 << 20) + 1];
    bed.docker
        .post("VolumeDriver.Create", &large)
        .expect("an answer")
        .refused("longer than 1 MiB");
    bed.docker.activate();
}

#[test]
fn a_second_daemon_is_refused() {
    let bed = bed();
    let socket = bed.socket();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let refused = bulkhead::http::Listening::bind(&socket)
        .err()
        .map(|error| error.to_string());
    assert!(
        refused
            .unwrap_or_default()
            .contains("another daemon already answers")
    );
    bed.docker.activate();
}
