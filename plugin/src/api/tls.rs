//! The certificate of the API: the operator's, or one that this node makes for itself and keeps. Never speaks anything
//! older than TLS 1.2.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// Why the API cannot be served over TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {what}: {error}; correct api.cert and api.key", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was wanted of it.
        what: &'static str,
        /// Why it did not work.
        error: String,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("the certificate of the API cannot be used: {0}; correct api.cert and api.key")]
    Unusable(#[from] rustls::Error),
    /// None could be made.
    #[error("a certificate for the API cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// How TLS is spoken with the certificate and the key in these files. Where none are named, a certificate for `names` is made
/// once and kept in `state_dir`.
pub fn server_config(
    cert: &Path,
    key: &Path,
    state_dir: &Path,
    names: &[String],
) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert, key) = if cert.as_os_str().is_empty() {
        own(state_dir, names)?
    } else {
        (cert.to_owned(), key.to_owned())
    };
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| TlsError::File {
        path: path.to_owned(),
        what: "cannot be read",
        error: error.to_string(),
    };
    let certs = CertificateDer::pem_file_iter(&cert)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unreadable(&cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certs, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The files of the certificate that this node has made for itself.
fn own(state_dir: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let dir = state_dir.join("api");
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = rcgen::generate_simple_self_signed(names.to_vec())?;
    let unwritable = |path: &Path, error: std::io::Error| TlsError::File {
        path: path.to_owned(),
        what: "cannot be written",
        error: error.to_string(),
    };
    let made_dir = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made_dir.map_err(|error| unwritable(&dir, error))?;
    // The key first: a certificate without one would be taken for a pair.
    for (path, text) in [(&key, made.signing_key.serialize_pem()), (&cert, made.cert.pem())] {
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| unwritable(path, error))?;
    }
    tracing::info!(cert = %cert.display(), "a certificate for the API is made; set api.cert and api.key to use your own");
    Ok((cert, key))
}

/// The names that a certificate is good for: those of the node, and the address, if it is one that others can use.
pub fn names(node: &str, host: &str) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let unspecified = host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b))
    };
    for name in [node, host] {
        if is_name(name) && !unspecified && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if unspecified && is_name(node) && !names.iter().any(|known| known == node) {
        names.push(node.to_owned());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_kept_from_others() -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir()?;
        let none = Path::new("");
        let make = || server_config(none, none, dir.path(), &names("n1", "10.0.0.1"));
        make()?;
        let cert = fs::read(dir.path().join("api/cert.pem"))?;
        let key = dir.path().join("api/key.pem");
        assert_eq!(fs::metadata(&key)?.permissions().mode() & 0o777, 0o600);
        make()?;
        assert_eq!(
            fs::read(dir.path().join("api/cert.pem"))?,
            cert,
            "it is not made again"
        );
        fs::write(&key, "nonsense")?;
        let refused = make().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            refused.contains("key.pem") && refused.contains("api.key"),
            "{refused}"
        );
        Ok(())
    }

    #[test]
    fn the_names_are_those_that_a_client_may_use() {
        assert!(names("n1", "0.0.0.0").contains(&"n1".to_owned()));
        assert!(!names("n1", "0.0.0.0").contains(&"0.0.0.0".to_owned()));
        assert!(names("n1", "10.0.0.1").contains(&"10.0.0.1".to_owned()));
        assert_eq!(names("a b", "").len(), 3);
    }
}
