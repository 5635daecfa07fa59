//! Segments of a URL's path, with percent signs where a byte cannot stand for itself.

/// A name as one segment of a path.
pub fn encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// What a segment means; `None` if it is malformed.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text in any::<String>()) {
            let encoded = encode(&text);
            prop_assert!(!encoded.contains('/'));
            prop_assert_eq!(decode(&encoded), Some(text));
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = decode(&text);
        }
    }

    #[test]
    fn what_is_malformed_is_none() {
        for text in ["%", "%1", "%+1", "%zz", "%ff"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
