//! A registry for a host's own dockerd: hands out the one plugin that a folder holds, under any name.
//!
//! It owns a port of the host. It must never take anything in: what it hands out was put into the folder by the lab.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead_lab::registry::{ADDRESS, MANIFEST, MANIFEST_TYPE};

/// How a client begins that wants TLS.
const TLS: u8 = 0x16;

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("which folder?")?);
    let listener = TcpListener::bind(ADDRESS)?;
    for stream in listener.incoming() {
        let (stream, folder) = (stream?, folder.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(&stream, &folder) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

/// Answers requests until the other side has no more.
fn serve(stream: &TcpStream, folder: &Path) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    if reader.fill_buf()?.first() == Some(&TLS) {
        // In the clear, by which a dockerd learns to speak so too.
        return refuse(stream, "400 Bad Request");
    }
    let mut lines = reader.lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        eprintln!("{request}");
        let mut words = request.split_whitespace();
        let is_head = words.next() == Some("HEAD");
        answer(stream, folder, words.next().unwrap_or_default(), is_head)?;
    }
    Ok(())
}

fn refuse(mut stream: &TcpStream, why: &str) -> Result<()> {
    Ok(write!(stream, "HTTP/1.1 {why}\r\nContent-Length: 0\r\n\r\n")?)
}

fn answer(mut stream: &TcpStream, folder: &Path, path: &str, is_head: bool) -> Result<()> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let manifest = fs::read_to_string(folder.join(MANIFEST))?;
    let digest = manifest.trim();
    let is_manifest = path.contains("/manifests/");
    let file = match () {
        () if path == "/v2/" => None,
        () if is_manifest && !name.starts_with("sha256:") => Some(digest),
        () => Some(name),
    };
    let body = file.map_or_else(|| Ok(b"{}".to_vec()), |file| fs::read(folder.join(file)));
    let Ok(body) = body else {
        return refuse(stream, "404 Not Found");
    };
    let kind = match (file, is_manifest) {
        (None, _) => "application/json",
        (_, true) => MANIFEST_TYPE,
        _ => "application/octet-stream",
    };
    let digest = file.map(|file| format!("Docker-Content-Digest: {file}\r\n"));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n{}\r\n",
        body.len(),
        digest.unwrap_or_default()
    )?;
    if !is_head {
        stream.write_all(&body)?;
    }
    Ok(())
}
