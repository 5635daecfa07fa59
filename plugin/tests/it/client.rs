//! What the driver's tests share: a client that sends the bytes that dockerd sends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// Speaks to a driver's socket as dockerd does: no Content-Type, a newline after the JSON, one call a connection.
#[derive(Clone)]
pub(crate) struct Docker {
    socket: PathBuf,
}

/// What came back: the status, and the body if it is JSON.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn error(&self) -> &str {
        self.body["Err"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!((self.status, self.error()), (200, ""), "{:?}", self.body);
        self.body
    }

    #[track_caller]
    pub(crate) fn refused(self, part: &str) -> String {
        assert!(
            self.error().contains(part),
            "{:?} does not say {part:?}",
            self.body
        );
        self.error().to_owned()
    }
}

impl Docker {
    pub(crate) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Sends bytes as they are; everything that comes back.
    pub(crate) fn raw(&self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(150)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        // A server that has seen enough may answer and close before it has read all.
        let _ = stream.write_all(bytes);
        let mut reply = Vec::new();
        match stream.read_to_end(&mut reply) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error),
            _ => Ok(reply),
        }
    }

    /// Sends a body; `None` if the connection was closed without an answer.
    pub(crate) fn post(&self, endpoint: &str, body: &[u8]) -> Option<Reply> {
        let mut request = head(endpoint, body.len()).into_bytes();
        request.extend_from_slice(body);
        let reply = self.raw(&request).expect("the socket answers");
        parse(&reply)
    }

    #[track_caller]
    pub(crate) fn call(&self, endpoint: &str, body: &Value) -> Reply {
        let mut text = body.to_string().into_bytes();
        text.push(b'\n');
        self.post(endpoint, &text).expect("an answer")
    }

    /// Sends a call and goes away without waiting for the answer.
    pub(crate) fn call_and_leave(&self, endpoint: &str, body: &Value, wait: Duration) {
        let body = body.to_string();
        let mut stream = UnixStream::connect(&self.socket).expect("the socket is there");
        stream
            .write_all((head(endpoint, body.len()) + &body).as_bytes())
            .expect("it takes the call");
        std::thread::sleep(wait);
    }

    pub(crate) fn activate(&self) -> Value {
        self.post("Plugin.Activate", b"").expect("an answer").body
    }

    #[track_caller]
    pub(crate) fn create(&self, name: &str, options: Value) -> Reply {
        self.call("VolumeDriver.Create", &json!({"Name": name, "Opts": options}))
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Reply {
        self.call("VolumeDriver.Get", &json!({"Name": name}))
    }

    #[track_caller]
    pub(crate) fn remove(&self, name: &str) -> Reply {
        self.call("VolumeDriver.Remove", &json!({"Name": name}))
    }

    #[track_caller]
    pub(crate) fn mount(&self, name: &str, id: &str) -> Reply {
        self.call("VolumeDriver.Mount", &json!({"Name": name, "ID": id}))
    }

    #[track_caller]
    pub(crate) fn unmount(&self, name: &str, id: &str) -> Reply {
        self.call("VolumeDriver.Unmount", &json!({"Name": name, "ID": id}))
    }

    #[track_caller]
    pub(crate) fn path(&self, name: &str) -> Reply {
        self.call("VolumeDriver.Path", &json!({"Name": name}))
    }

    #[track_caller]
    pub(crate) fn list(&self) -> Vec<String> {
        let body = self.call("VolumeDriver.List", &json!({})).ok();
        let volumes = body["Volumes"].as_array().cloned().unwrap_or_default();
        volumes
            .iter()
            .map(|volume| volume["Name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The mount point that Get shows.
    #[track_caller]
    pub(crate) fn mountpoint(&self, name: &str) -> String {
        self.get(name).ok()["Volume"]["Mountpoint"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

pub(crate) fn head(endpoint: &str, length: usize) -> String {
    format!(
        "POST /{endpoint} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {length}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n"
    )
}

pub(crate) fn parse(reply: &[u8]) -> Option<Reply> {
    if reply.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(reply);
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some(Reply {
        status,
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    })
}
