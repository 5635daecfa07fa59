//! The data address: what a person may write, and what is found out where nothing is written. Opens no connection: the
//! kernel is asked which of its addresses routes to the store.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use bulkhead_cluster::store::StoreUrl;

/// The port at which nodes serve their replicas to each other.
pub const DATA_PORT: u16 = 7481;

/// The port at which the API is served.
pub const API_PORT: u16 = 7480;

/// Host and port of a data address, each if it is written.
type Parts<'a> = (Option<&'a str>, Option<u16>);

/// Whether a text can be a data address.
pub fn check(text: &str) -> Result<(), String> {
    parts(text).map(drop)
}

fn parts(text: &str) -> Result<Parts<'_>, String> {
    if text.is_empty() {
        return Ok((None, None));
    }
    let port = |port: &str| {
        port.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("{port:?} is no port; write HOST:PORT, HOST or :PORT"))
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok((None, Some(port(text)?)));
    }
    let (host, port) = match text.rsplit_once(':') {
        // `[::1]` without a port ends in the bracket.
        Some((host, number)) if !number.ends_with(']') => (host, Some(port(number)?)),
        _ => (text, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let sound = host.is_empty()
        || if bracketed {
            host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok()
        } else {
            host.chars().all(plain)
        };
    if !sound {
        return Err(format!(
            "{host:?} is no host; write HOST:PORT, HOST or :PORT, and an IPv6 address in brackets"
        ));
    }
    Ok(((!host.is_empty()).then_some(host), port))
}

/// The data address of this node: as written, the rest found out from the way to the store. Empty if the store is
/// embedded: nobody else asks then. Resolves names, so it may take a while.
pub fn data_address(written: &str, store: &str) -> Result<String, String> {
    let endpoints = match StoreUrl::parse(store).map_err(|error| error.to_string())? {
        StoreUrl::Sqlite(_) => return Ok(String::new()),
        StoreUrl::Etcd { endpoints, .. } | StoreUrl::Consul { endpoints, .. } => endpoints,
    };
    let (host, port) = parts(written)?;
    let port = port.unwrap_or(DATA_PORT);
    if let Some(host) = host {
        return Ok(format!("{host}:{port}"));
    }
    let mut failure = None;
    for endpoint in &endpoints {
        match local_address_to(endpoint) {
            Ok(mut address) => {
                address.set_port(port);
                return Ok(address.to_string());
            }
            Err(error) => failure = failure.or(Some(format!("{endpoint}: {error}"))),
        }
    }
    Err(format!(
        "it cannot be found out by which address other nodes reach this one ({}); set data_address",
        failure.unwrap_or_default()
    ))
}

/// Host and port at which the API is served, the host empty if it is all of this host's; nothing if it is not served.
pub fn api_address(written: &str) -> Result<Option<(String, u16)>, String> {
    if written.is_empty() {
        return Ok(None);
    }
    let (host, port) = parts(written)?;
    Ok(Some((
        host.unwrap_or_default().to_owned(),
        port.unwrap_or(API_PORT),
    )))
}

/// Where others reach the API: as written, the host that of the data address if none is. Empty if there is none.
pub fn management_address(written: &str, data_address: &str) -> String {
    let Ok(Some((host, port))) = api_address(written) else {
        return String::new();
    };
    let host = if host.is_empty() {
        parts(data_address)
            .ok()
            .and_then(|(host, _)| host)
            .unwrap_or_default()
    } else {
        &host
    };
    if host.is_empty() {
        String::new()
    } else {
        format!("{host}:{port}")
    }
}

/// The address of ours by which packets to an endpoint leave. Sends none.
fn local_address_to(endpoint: &str) -> io::Result<SocketAddr> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for to in endpoint.to_socket_addrs()? {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let found = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(to)?;
            socket.local_addr()
        });
        match found {
            Ok(address) => return Ok(address),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_found_out() {
        let store = "etcd://127.0.0.1:2379";
        for (written, address) in [
            ("", "127.0.0.1:7481"),
            (":99", "127.0.0.1:99"),
            ("99", "127.0.0.1:99"),
            ("n1.example", "n1.example:7481"),
            ("n1:5", "n1:5"),
            ("[::1]", "[::1]:7481"),
            ("[::1]:5", "[::1]:5"),
        ] {
            assert_eq!(data_address(written, store).as_deref(), Ok(address), "{written}");
        }
        assert_eq!(data_address(":99", "sqlite:///x").as_deref(), Ok(""));
    }

    #[test]
    fn where_the_api_is_reached() {
        assert_eq!(api_address(""), Ok(None));
        assert_eq!(api_address(":99"), Ok(Some((String::new(), 99))));
        assert_eq!(api_address("n1"), Ok(Some(("n1".to_owned(), API_PORT))));
        assert_eq!(management_address(":99", "10.0.0.1:7481"), "10.0.0.1:99");
        assert_eq!(management_address("[::1]:99", "10.0.0.1:7481"), "[::1]:99");
        assert_eq!(management_address(":99", ""), "");
        assert_eq!(management_address("", "10.0.0.1:7481"), "");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["a b", ":0", "h:x", "::1", "h:70000", "[zz]:1", "0"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
