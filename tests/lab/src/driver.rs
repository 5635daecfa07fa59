//! The volume driver's own socket, as dockerd calls it: for tests that want to call it more often, or at the same moment on
//! several hosts.
//!
//! It owns nothing. It must never wait longer than its caller allows.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::host::Host;

/// The driver of one host.
#[derive(Debug, Clone)]
pub struct Driver {
    socket: PathBuf,
    deadline: Duration,
}

impl Driver {
    /// The driver on this host, as long as the host keeps its power.
    pub fn of(host: &Host) -> Self {
        Self {
            socket: host.outside("/run/docker/plugins/bulkhead.sock"),
            deadline: Duration::from_secs(130),
        }
    }

    /// The same with another deadline for each call.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes a volume.
    pub fn create(&self, name: &str, options: &[(&str, &str)]) -> Result<()> {
        let options: serde_json::Map<_, _> = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        self.call("Create", &json!({ "Name": name, "Opts": options }))
            .map(drop)
    }

    /// What the driver tells of a volume; `None` if it says that there is none.
    pub fn get(&self, name: &str) -> Result<Option<Value>> {
        let answer = self.raw("Get", &json!({ "Name": name }))?;
        Ok(answer.get("Volume").filter(|volume| !volume.is_null()).cloned())
    }

    /// Mounts a volume for a user of this id, and tells where.
    pub fn mount(&self, name: &str, id: &str) -> Result<String> {
        let answer = self.call("Mount", &json!({ "Name": name, "ID": id }))?;
        let point = answer["Mountpoint"].as_str().unwrap_or_default();
        if point.is_empty() {
            bail!("the driver mounted {name} nowhere: {answer}");
        }
        Ok(point.to_owned())
    }

    /// Ends that use.
    pub fn unmount(&self, name: &str, id: &str) -> Result<()> {
        self.call("Unmount", &json!({ "Name": name, "ID": id })).map(drop)
    }

    /// Removes a volume.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.call("Remove", &json!({ "Name": name })).map(drop)
    }

    /// Asks, and takes `Err` in the answer for what it is.
    fn call(&self, method: &str, body: &Value) -> Result<Value> {
        let answer = self.raw(method, body)?;
        match answer["Err"].as_str() {
            None | Some("") => Ok(answer),
            Some(said) => bail!("{method} {}: {said}", body["Name"]),
        }
    }

    fn raw(&self, method: &str, body: &Value) -> Result<Value> {
        let begin = Instant::now();
        let what = || format!("{method} at {}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).with_context(what)?;
        let text = body.to_string();
        let head = format!(
            "POST /VolumeDriver.{method} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nConnection: close\r\n\
             Accept: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(text.as_bytes())?;
        let mut answer = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = self.deadline.saturating_sub(begin.elapsed());
            if left.is_zero() {
                bail!("{}: no answer within {:?}", what(), self.deadline);
            }
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut chunk).with_context(what)? {
                0 => break,
                read => answer.extend(&chunk[..read]),
            }
        }
        let text = String::from_utf8_lossy(&answer);
        let (_, body) = text
            .split_once("\r\n\r\n")
            .with_context(|| format!("{}: the answer is {text:?}", what()))?;
        serde_json::from_str(body).with_context(|| format!("{}: the answer is {text:?}", what()))
    }
}
