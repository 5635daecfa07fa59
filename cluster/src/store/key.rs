//! What a key may look like and how much a transaction may hold: the intersection of what the three stores take.
//! Pure; keeps every implementation from finding out the hard way.

use std::collections::HashSet;

use super::{MAX_KEY, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE, Op, StoreError, Txn};

/// Whether a key is one that every store takes: ASCII letters, digits and `-_.%/`, no empty part.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    check_prefix(key)?;
    if key.is_empty() || key.ends_with('/') {
        return Err(StoreError::Invalid(format!(
            "`{key}` is not a key: its last part is empty"
        )));
    }
    Ok(())
}

/// Whether a prefix is one that every store takes; it may be empty or end in `/`.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.%/".contains(&c);
    if let Some(bad) = prefix.bytes().find(|c| !plain(*c)) {
        return Err(StoreError::Invalid(format!(
            "key `{prefix}` holds the byte {bad:#04x}: only ASCII letters, digits and -_.%/ may be in a key"
        )));
    }
    if prefix.starts_with('/') || prefix.contains("//") {
        return Err(StoreError::Invalid(format!("key `{prefix}` has an empty part")));
    }
    if prefix.split('/').any(|part| part == "." || part == "..") {
        return Err(StoreError::Invalid(format!(
            "key `{prefix}` has a part that means a directory in a URL"
        )));
    }
    if prefix.len() > MAX_KEY {
        return Err(StoreError::Invalid(format!(
            "a key of {} bytes is too long: {MAX_KEY} at most",
            prefix.len()
        )));
    }
    Ok(())
}

/// The first key after all that begin with a prefix; `None` if there is no bound.
pub(crate) fn prefix_end(prefix: &str) -> Option<String> {
    // Keys are ASCII below 0x7f, so the last byte can be raised by one and stays a character.
    let mut bytes = prefix.as_bytes().to_vec();
    let last = bytes.last_mut()?;
    *last = last.saturating_add(1);
    String::from_utf8(bytes).ok()
}

/// Checks of whole requests.
pub(crate) struct Limits;

impl Limits {
    /// Whether every store would take the transaction.
    pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
        let count = txn.checks.len() + txn.ops.len();
        if txn.ops.is_empty() {
            return Err(StoreError::Invalid(
                "a transaction that changes nothing".to_owned(),
            ));
        }
        if count > MAX_TXN_OPS {
            return Err(StoreError::Invalid(format!(
                "a transaction of {count} checks and changes: {MAX_TXN_OPS} at most"
            )));
        }
        let mut bytes = 0;
        let mut changed = HashSet::new();
        for (key, _) in &txn.checks {
            check_key(key)?;
            bytes += key.len();
        }
        for op in &txn.ops {
            check_key(op.key())?;
            if !changed.insert(op.key()) {
                return Err(StoreError::Invalid(format!(
                    "`{}` is changed twice in one transaction",
                    op.key()
                )));
            }
            bytes += op.key().len();
            if let Op::Put { key, value, .. } = op {
                if value.len() > MAX_VALUE {
                    return Err(StoreError::Invalid(format!(
                        "a value of {} bytes for `{key}`: {MAX_VALUE} at most",
                        value.len()
                    )));
                }
                bytes += value.len();
            }
        }
        if bytes > MAX_TXN_BYTES {
            return Err(StoreError::Invalid(format!(
                "a transaction of {bytes} bytes: {MAX_TXN_BYTES} at most"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_every_store_takes() {
        for good in ["a", "volumes/01-aB_.%2F", "x/y/z"] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "a b",
            "ä",
            "a\0",
            "a?b",
            &"k".repeat(MAX_KEY + 1),
        ] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
        assert_eq!(prefix_end("volumes/").as_deref(), Some("volumes0"));
        assert_eq!(prefix_end(""), None);
    }

    #[test]
    fn a_transaction_is_bounded() {
        let many = (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, i| txn.delete(format!("k{i}")));
        assert!(Limits::check(&many).is_err());
        assert!(Limits::check(&Txn::new()).is_err());
        assert!(Limits::check(&Txn::new().put("a", "1").delete("a")).is_err());
        assert!(Limits::check(&Txn::new().put("a", vec![0; MAX_VALUE + 1])).is_err());
        assert!(Limits::check(&Txn::new().put("a", vec![0; MAX_VALUE])).is_ok());
    }
}
