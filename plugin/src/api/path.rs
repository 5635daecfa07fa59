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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_stays_in_its_segment(text in any::<String>()) {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
        }
    }

    #[test]
    fn only_what_cannot_stand_for_itself_is_encoded() {
        assert_eq!(encode("v-1.a_b~"), "v-1.a_b~");
        assert_eq!(encode("a/b c%ü"), "a%2Fb%20c%25%C3%BC");
    }
}
