//! The API over the network: TLS, tokens and roles, what is told without one, events as a stream, figures.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use bulkhead_test_servers::free_port;
use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::node::{BINARY, Node, eventually};

/// A node that serves its API, and who asks it.
pub(crate) struct Served {
    pub(crate) node: Node,
    port: u16,
    client: Client,
    runtime: Runtime,
}

impl Served {
    fn start() -> Self {
        let port = free_port();
        let node = Node::with_flags(&["--api-listen", &format!("127.0.0.1:{port}")]);
        let logged = || node.log().contains("the API is served with TLS");
        assert!(eventually(Duration::from_secs(10), logged), "{}", node.log());
        let cert = std::fs::read(node.path("state/api/cert.pem")).expect("a certificate");
        let client = Client::builder()
            .add_root_certificate(Certificate::from_pem(&cert).expect("a certificate"))
            .tls_built_in_root_certs(false)
            .timeout(Duration::from_secs(20))
            .build()
            .expect("a client");
        Self {
            node,
            port,
            client,
            runtime: Runtime::new().expect("a runtime"),
        }
    }

    fn token(&self, name: &str, role: &str) -> String {
        self.node
            .ok(&["token", "create", name, "--role", role])
            .trim()
            .to_owned()
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, String) {
        let mut request = self
            .client
            .request(method, format!("https://127.0.0.1:{}{path}", self.port));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.runtime.block_on(async {
            let response = request.send().await.expect("an answer");
            (response.status(), response.text().await.expect("a body"))
        })
    }

    fn get(&self, path: &str, token: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, Some(token), None)
    }
}

const PATHS: [(&str, &str); 12] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/volumes"),
    ("GET", "/v1/volumes/secret-volume"),
    ("POST", "/v1/volumes"),
    ("DELETE", "/v1/volumes/secret-volume"),
    ("GET", "/v1/events/stream"),
    ("GET", "/v1/tokens"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/v1/nothing"),
    ("PATCH", "/v1/volumes"),
    ("GET", "/web/"),
];

#[test]
fn without_a_token_that_is_known_nothing_is_told() {
    let served = Served::start();
    served.node.add_pool("1G");
    served
        .node
        .ok(&["volume", "create", "secret-volume", "--size", "64M"]);
    let ended = served.token("ended", "admin");
    served.node.ok(&["token", "delete", "ended"]);
    let mut bodies = std::collections::BTreeSet::new();
    for token in [
        None,
        Some("wrong"),
        Some(""),
        Some(ended.as_str()),
        Some("bulkhead-"),
    ] {
        for (method, path) in PATHS {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let (status, body) = served.ask(method.clone(), path, token, None);
            assert_eq!(
                status,
                StatusCode::UNAUTHORIZED,
                "{method} {path} {token:?}: {body}"
            );
            bodies.insert(body);
        }
    }
    assert_eq!(bodies.len(), 1, "all get the same answer: {bodies:?}");
    let body = bodies.pop_first().expect("a body");
    assert!(
        body.contains("bulkhead token create") && !body.contains("secret"),
        "{body}"
    );
    assert!(!body.contains("store.db"), "{body}");

    // What a store keeps of a token is not the token.
    let token = served.token("kept", "admin");
    let store = std::fs::read(served.node.path("store.db")).expect("the store");
    let wal = std::fs::read(served.node.path("store.db-wal")).unwrap_or_default();
    for bytes in [store, wal] {
        assert!(
            !bytes
                .windows(token.len())
                .any(|window| window == token.as_bytes())
        );
    }
    assert!(!served.node.log().contains(&token), "nor does the log");
}

#[test]
fn a_viewer_looks_and_an_admin_does() {
    let served = Served::start();
    served.node.add_pool("1G");
    let (viewer, admin) = (served.token("look", "viewer"), served.token("do", "admin"));
    let (status, body) = served.get("/v1/status", &viewer);
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(
        serde_json::from_str::<Value>(&body).expect("JSON")["healthy"],
        json!(true)
    );
    let volume = || Some(json!({"name": "shop-data", "options": {"size": "64M"}}));
    let (status, body) = served.ask(Method::POST, "/v1/volumes", Some(&viewer), volume());
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    for (method, path) in PATHS {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        if method != Method::GET || path == "/v1/tokens" {
            let (status, _) = served.ask(method, path, Some(&viewer), None);
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        }
    }
    let (status, body) = served.ask(Method::POST, "/v1/volumes", Some(&admin), volume());
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (status, body) = served.get("/v1/volumes/shop-data", &viewer);
    assert_eq!(status, StatusCode::OK, "{body}");
    let (status, body) = served.get("/v1/volumes/shop-deta", &viewer);
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("did you mean \\\"shop-data\\\""), "{body}");
    let (status, body) = served.get("/v1/tokens", &admin);
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("\"look\"") && !body.contains("hash"), "{body}");
    let (status, body) = served.ask(Method::PUT, "/v1/volumes", Some(&admin), None);
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{body}");
    let (status, _) = served.ask(Method::DELETE, "/v1/volumes/shop-data", Some(&admin), None);
    assert_eq!(status, StatusCode::OK);

    // The same name twice is refused, an end in the future is kept, and a token that is deleted is none any more.
    let (code, message) = served.node.fails(&["token", "create", "look", "--role", "admin"]);
    assert_eq!(code, 6, "{message}");
    let short = served.node.ok(&[
        "token",
        "create",
        "short",
        "--role",
        "viewer",
        "--expires-in",
        "1s",
    ]);
    assert!(
        eventually(Duration::from_secs(10), || {
            served.get("/v1/status", short.trim()).0 == StatusCode::UNAUTHORIZED
        }),
        "it has ended"
    );
    assert!(served.node.ok(&["token", "list"]).contains("ended "));
    served.node.ok(&["token", "rm", "look"]);
    assert_eq!(served.get("/v1/status", &viewer).0, StatusCode::UNAUTHORIZED);
    let (code, message) = served.node.fails(&["token", "rm", "look"]);
    assert_eq!(code, 4, "{message}");
    assert!(message.contains("there are: do"), "{message}");
}

#[test]
fn tokens_outlive_a_restart_and_a_bad_certificate_keeps_no_volume_away() {
    let mut served = Served::start();
    let admin = served.token("do", "admin");
    served.node.terminate();
    served.node.start();
    let port = served.port;
    assert!(
        eventually(Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        }),
        "{}",
        served.node.log()
    );
    assert_eq!(
        served.get("/v1/status", &admin).0,
        StatusCode::OK,
        "with the same certificate"
    );

    served.node.terminate();
    std::fs::write(served.node.path("state/api/key.pem"), "nonsense").expect("written");
    served.node.start();
    served.node.add_pool("1G");
    served.node.ok(&["volume", "create", "v1", "--size", "64M"]);
    let problem = || {
        let status = served.node.json(&["status"]);
        status["problems"].to_string().contains("the API is not served")
    };
    assert!(
        eventually(Duration::from_secs(10), problem),
        "{}",
        served.node.ok(&["status"])
    );
}

#[test]
fn plain_http_and_old_tls_get_nowhere() {
    let served = Served::start();
    let plain = served.runtime.block_on(
        Client::new()
            .get(format!("http://127.0.0.1:{}/v1/status", served.port))
            .send(),
    );
    assert!(plain.is_err(), "{plain:?}");
    let stranger = served.runtime.block_on(
        Client::new()
            .get(format!("https://127.0.0.1:{}/v1/status", served.port))
            .send(),
    );
    assert!(
        stranger.is_err(),
        "a certificate that nobody vouches for: {stranger:?}"
    );
}

#[test]
fn events_are_kept_and_followed() {
    let served = Served::start();
    served.token("first", "viewer");
    let has = |what: &str| {
        let events = served.node.json(&["events"]);
        events
            .as_array()
            .into_iter()
            .flatten()
            .any(|event| event["what"] == what && event["object"]["name"] == "first")
    };
    assert!(eventually(Duration::from_secs(10), || has("token-created")));
    let mut follower = Command::new(BINARY)
        .args(["events", "-f", "--json"])
        .env("BULKHEAD_CONTROL_SOCKET", served.node.path("control.sock"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("its output")).lines();
    let mut next = || {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    assert_eq!(next()["what"], "token-created", "what was before comes first");
    served.node.ok(&["token", "delete", "first"]);
    let told = next();
    assert_eq!(
        (&told["what"], &told["object"]["name"]),
        (&json!("token-deleted"), &json!("first"))
    );
    // It ends with the daemon, and says so.
    let mut served = served;
    served.node.terminate();
    let ended = follower.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(3));
    // What happened before outlives it, and its numbers go on.
    served.node.start();
    served.token("second", "viewer");
    let all = || {
        served
            .node
            .json(&["events"])
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    assert!(
        eventually(Duration::from_secs(10), || all().len() == 3),
        "{:?}",
        all()
    );
    assert_eq!(
        served.node.json(&["events", "--last", "1"])[0]["object"]["name"],
        "second"
    );
}

#[test]
fn figures_are_those_of_the_volume() {
    let served = Served::start();
    served.node.add_pool("1G");
    let token = served.token("prometheus", "viewer");
    served.node.ok(&["volume", "create", "v1", "--size", "64M"]);
    served.node.docker().mount("v1", "a").ok();
    let mountpoint = served.node.docker().mountpoint("v1");
    let file = format!("{mountpoint}/f");
    std::fs::write(&file, vec![7; 1 << 20]).expect("written");
    let synced = std::fs::File::open(&file).and_then(|file| file.sync_all());
    synced.expect("synced");
    let (status, text) = served.get("/metrics", &token);
    assert_eq!(status, StatusCode::OK);
    let value = |figure: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(figure));
        let line = line.unwrap_or_else(|| panic!("{figure} is not in:\n{text}"));
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number")
    };
    let id = served.node.json(&["volume", "inspect", "v1"])[0]["id"].clone();
    let v1 = format!("volume=\"v1\",id={id}");
    assert_eq!(
        value(&format!("bulkhead_volume_state{{{v1},state=\"attached\"}}")),
        1.0
    );
    assert_eq!(
        value(&format!("bulkhead_volume_state{{{v1},state=\"failed\"}}")),
        0.0
    );
    assert_eq!(
        value(&format!("bulkhead_volume_size_bytes{{{v1}}}")),
        f64::from(64 << 20)
    );
    assert!(value(&format!("bulkhead_volume_bytes_total{{{v1},op=\"write\"}}")) >= f64::from(1 << 20));
    let writes = value(&format!("bulkhead_volume_requests_total{{{v1},op=\"write\"}}"));
    let counted = value(&format!(
        "bulkhead_volume_latency_seconds_count{{{v1},op=\"write\"}}"
    ));
    let classes = value(&format!(
        "bulkhead_volume_latency_seconds_bucket{{{v1},op=\"write\",le=\"+Inf\"}}"
    ));
    assert!(writes >= 1.0 && counted >= writes, "{writes} {counted}");
    assert_eq!(counted, classes);
    assert!(
        value(&format!(
            "bulkhead_volume_latency_seconds_sum{{{v1},op=\"flush\"}}"
        )) > 0.0
    );
    assert_eq!(value("bulkhead_alerts{severity=\"critical\"}"), 0.0);
    assert!(value("bulkhead_pool_capacity_bytes") > 0.0);
    // Each family is described once, and each figure has one value.
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, _) = line.rsplit_once(' ').expect("a figure");
        assert!(seen.insert(name), "{name} twice");
    }
    let page = include_str!("../../../docs/metrics.md");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/metrics.md lacks {name}"
        );
    }
    served.node.docker().unmount("v1", "a").ok();
}

#[test]
fn the_page_is_there_and_may_load_nothing_from_elsewhere() {
    let served = Served::start();
    for (path, part) in [
        ("/", "<title>Bulkhead"),
        ("/web/app.js", "use strict"),
        ("/web/style.css", ":root"),
    ] {
        let asked = async {
            let page = format!("https://127.0.0.1:{}{path}", served.port);
            served.client.get(page).send().await
        };
        let response = served.runtime.block_on(asked).expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .expect("text")
            .to_owned();
        assert!(
            policy.contains("default-src 'none'") && !policy.contains("unsafe"),
            "{policy}"
        );
        let text = served.runtime.block_on(response.text()).expect("a body");
        assert!(text.contains(part), "{path}");
    }
}
