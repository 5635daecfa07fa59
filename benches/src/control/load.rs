//! What etcd says of its own work: its counters, summed over the members, and the difference between two moments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

/// The counters at one moment.
#[derive(Clone, Debug)]
pub struct Counters {
    at: Instant,
    /// Requests that were begun, by method; a stream counts once.
    methods: BTreeMap<String, f64>,
    /// Messages on watches to the nodes.
    told: f64,
    /// Messages on watches from the nodes: "are you there?".
    asked: f64,
    bytes: f64,
    cpu: f64,
    /// Bytes of the largest member's database that are in use.
    pub database: f64,
    /// Bytes of memory of the largest member.
    pub memory: f64,
}

/// What was done between two moments.
#[derive(Clone, Debug)]
pub struct Load {
    /// How long it took.
    pub time: Duration,
    /// Requests a second by method, without those that did not occur.
    pub methods: BTreeMap<String, f64>,
    /// Messages a second to those who watch.
    pub told: f64,
    /// Messages a second from those who watch.
    pub asked: f64,
    /// Bytes a second to all clients.
    pub bytes: f64,
    /// Processors in use by all members together.
    pub cpu: f64,
}

impl Load {
    /// Requests a second for records: without watches, which are begun anew when many changes come.
    pub fn for_records(&self) -> f64 {
        self.requests() - self.methods.get("Watch").copied().unwrap_or_default()
    }

    /// Requests a second in all.
    pub fn requests(&self) -> f64 {
        self.methods.values().sum()
    }
}

impl Counters {
    /// Asks the members at these ports of loopback.
    pub async fn take(ports: &[u16]) -> anyhow::Result<Self> {
        let mut counters = Self {
            at: Instant::now(),
            methods: BTreeMap::new(),
            told: 0.0,
            asked: 0.0,
            bytes: 0.0,
            cpu: 0.0,
            database: 0.0,
            memory: 0.0,
        };
        for port in ports {
            let url = format!("http://127.0.0.1:{port}/metrics");
            let text = reqwest::get(&url).await?.error_for_status()?.text().await?;
            counters
                .add(&text)
                .with_context(|| format!("the metrics of {url}"))?;
        }
        counters.at = Instant::now();
        Ok(counters)
    }

    fn add(&mut self, text: &str) -> anyhow::Result<()> {
        let mut found = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (family, labels) = name.split_once('{').unwrap_or((name, ""));
            let on_watch = label(labels, "grpc_method") == Some("Watch");
            match family {
                "grpc_server_started_total" => {
                    let method = label(labels, "grpc_method").unwrap_or("unknown");
                    *self.methods.entry(method.to_owned()).or_default() += value;
                }
                "grpc_server_msg_sent_total" if on_watch => self.told += value,
                "grpc_server_msg_received_total" if on_watch => self.asked += value,
                "etcd_network_client_grpc_sent_bytes_total" => self.bytes += value,
                "process_cpu_seconds_total" => self.cpu += value,
                "etcd_mvcc_db_total_size_in_use_in_bytes" => self.database = self.database.max(value),
                "process_resident_memory_bytes" => self.memory = self.memory.max(value),
                _ => continue,
            }
            found += 1;
        }
        anyhow::ensure!(found > 0, "none of them is known");
        Ok(())
    }

    /// What was done since an earlier moment.
    pub fn since(&self, before: &Self) -> Load {
        let time = self.at.duration_since(before.at);
        let rate = |now: f64, then: f64| (now - then) / time.as_secs_f64();
        let then = |method: &str| before.methods.get(method).copied().unwrap_or_default();
        Load {
            time,
            methods: self
                .methods
                .iter()
                .map(|(method, now)| (method.clone(), rate(*now, then(method))))
                .filter(|(_, rate)| *rate > 0.0)
                .collect(),
            told: rate(self.told, before.told),
            asked: rate(self.asked, before.asked),
            bytes: rate(self.bytes, before.bytes),
            cpu: rate(self.cpu, before.cpu),
        }
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE grpc_server_started_total counter
grpc_server_started_total{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"} 7
grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 2
grpc_server_msg_sent_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 90
grpc_server_msg_sent_total{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"} 7
process_cpu_seconds_total 1.5
"#;

    #[test]
    fn members_are_added_up_and_moments_subtracted() -> anyhow::Result<()> {
        let counters = |text: &str| {
            let mut counters = Counters {
                at: Instant::now(),
                methods: BTreeMap::new(),
                told: 0.0,
                asked: 0.0,
                bytes: 0.0,
                cpu: 0.0,
                database: 0.0,
                memory: 0.0,
            };
            counters.add(text)?;
            counters.add(text)?;
            anyhow::Ok(counters)
        };
        let before = counters(TEXT)?;
        assert_eq!(
            (before.methods["Range"], before.told, before.cpu),
            (14.0, 180.0, 3.0)
        );
        let mut after = counters(&TEXT.replace(" 7", " 12"))?;
        after.at = before.at + Duration::from_secs(2);
        let load = after.since(&before);
        assert_eq!((load.requests(), load.told), (5.0, 0.0));
        assert!(!load.methods.contains_key("Watch"));
        assert!(counters("nothing 1\n").is_err());
        Ok(())
    }
}
