//! Stores over TLS with certificates on both sides: ours and theirs are checked, and what does not fit is refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_cluster::store::{Options, StoreError, Tls, Txn, Watcher, open};

use crate::servers::{ConsulCluster, EtcdCluster, data_dir};
use crate::support::{Follower, until};

/// An authority, and certificates that it signed.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let authority = Self(dir.join(name));
        std::fs::create_dir(&authority.0).unwrap();
        openssl(
            &authority.0,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        );
        authority
    }

    fn sign(&self, name: &str) -> Tls {
        let extensions =
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(self.0.join("ext"), extensions).unwrap();
        openssl(
            &self.0,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ),
        );
        openssl(
            &self.0,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
            ),
        );
        let path = |end: &str| Some(self.0.join(format!("{name}.{end}")));
        Tls {
            ca: Some(self.0.join("ca.pem")),
            cert: path("pem"),
            key: path("key"),
        }
    }
}

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn with(tls: Tls) -> Options {
    Options {
        prefix: "bulkhead/tls/".to_owned(),
        deadline: Duration::from_secs(2),
        tls,
        ..Options::default()
    }
}

fn shown(path: &Option<PathBuf>) -> String {
    path.as_ref().unwrap().display().to_string()
}

async fn both_sides_are_checked(url: &str, ours: &Tls, foreign: &Tls) {
    let store = open(url, &with(ours.clone())).await.unwrap();
    until(Duration::from_secs(30), "the store", async || {
        store.commit(Txn::new().put("a", "1")).await.is_ok()
    })
    .await;
    let mut follower = Follower::new(Watcher::new(Arc::clone(&store), ""));
    follower
        .until(Duration::from_secs(10), "the watch", |f| {
            f.state.contains_key("a")
        })
        .await;
    let without = Tls {
        cert: None,
        key: None,
        ..ours.clone()
    };
    let theirs_unknown = Tls {
        ca: foreign.ca.clone(),
        ..ours.clone()
    };
    let ours_unknown = Tls {
        ca: ours.ca.clone(),
        ..foreign.clone()
    };
    for tls in [without, theirs_unknown, ours_unknown] {
        let store = open(url, &with(tls.clone())).await.unwrap();
        let error = store.commit(Txn::new().put("a", "2")).await.unwrap_err();
        assert!(
            !matches!(error, StoreError::Conflict { .. } | StoreError::Invalid(_)),
            "{tls:?}: {error}"
        );
        assert!(store.get("a").await.is_err(), "{tls:?}");
    }
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"1");
    for (tls, words) in [
        (
            Tls {
                key: None,
                ..ours.clone()
            },
            "needs its key",
        ),
        (
            Tls {
                ca: Some("/nowhere.pem".into()),
                ..ours.clone()
            },
            "cannot be read",
        ),
    ] {
        let error = open(url, &with(tls)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_over_tls() {
    let dir = data_dir();
    let ca = Authority::new(dir.path(), "ours");
    let (server, client) = (ca.sign("server"), ca.sign("client"));
    let foreign = Authority::new(dir.path(), "foreign").sign("client");
    let more = [
        ("--cert-file", shown(&server.cert)),
        ("--key-file", shown(&server.key)),
        ("--trusted-ca-file", shown(&server.ca)),
    ];
    let mut args: Vec<String> = more
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
    args.push("--client-cert-auth".to_owned());
    let cluster = EtcdCluster::start_with(1, &args).await;
    let url = cluster.url().replace("etcd://", "etcds://");
    both_sides_are_checked(&url, &client, &foreign).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_over_tls() {
    let dir = data_dir();
    let ca = Authority::new(dir.path(), "ours");
    let (server, client) = (ca.sign("server"), ca.sign("client"));
    let foreign = Authority::new(dir.path(), "foreign").sign("client");
    let more = serde_json::json!({
        "cert_file": server.cert, "key_file": server.key, "ca_file": server.ca, "verify_incoming_https": true,
    });
    let cluster = ConsulCluster::start_with(1, &more);
    let url = cluster.url().replace("consul://", "consuls://");
    both_sides_are_checked(&url, &client, &foreign).await;
}
