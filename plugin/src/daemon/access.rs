//! Tokens of the API: made from the system's randomness, kept as hashes, compared in constant time. Reads this node's copy of
//! the records, so that nobody who only asks puts load on the store, and tokens hold while it is away.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bulkhead_cluster::schema::{Extra, Role as StoredRole, Severity, Timestamp, TokenRecord};
use bulkhead_cluster::tokens::{TokenError, Tokens};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::alerts::about;
use super::context::Daemon;
use crate::service::{AccessService, NewTokenView, Role, ServiceError, TokenRequest, TokenView};

/// What every token begins with, so that one that has got lost is known for what it is.
const PREFIX: &str = "bulkhead-";
/// Random bytes of a token.
const RANDOM: usize = 32;
/// The longest life of a token that ends.
const LONGEST: u64 = 100 * 365 * 24 * 3600;

#[async_trait]
impl AccessService for Arc<Daemon> {
    async fn create_token(&self, request: &TokenRequest) -> Result<NewTokenView, ServiceError> {
        let now = SystemTime::now();
        let expires_at = request.expires_in.map(|seconds| {
            if (1..=LONGEST).contains(&seconds) {
                Ok(now + Duration::from_secs(seconds))
            } else {
                Err(ServiceError::Invalid(format!(
                    "a token ends after 1 to {LONGEST} seconds, or never if no time is given"
                )))
            }
        });
        let token = random_token()?;
        let record = TokenRecord {
            name: request.name.clone(),
            role: match request.role {
                Role::Viewer => StoredRole::Viewer,
                Role::Admin => StoredRole::Admin,
            },
            hash: hex(&hash(&token)),
            created_at: now.into(),
            expires_at: expires_at.transpose()?.map(Timestamp::from),
            extra: Extra::new(),
        };
        let made = Tokens::new(self.store.clone()).create(&record).await;
        made.map_err(|error| token_failed(&error))?;
        tracing::info!(token = record.name, role = ?record.role, "a token of the API is made");
        self.happened(
            "token-created",
            Severity::Info,
            about("token", &record.name, &record.name),
            format!(
                "token {:?} with the role {} was made",
                record.name,
                role_word(record.role)
            ),
        );
        self.until_known(|contents| contents.tokens().any(|known| known.hash == record.hash))
            .await;
        Ok(NewTokenView {
            token,
            view: view(&record, now),
        })
    }

    async fn tokens(&self) -> Result<Vec<TokenView>, ServiceError> {
        let now = SystemTime::now();
        Ok(self
            .catalogue
            .read(|contents| contents.tokens().map(|token| view(token, now)).collect()))
    }

    async fn delete_token(&self, name: &str) -> Result<(), ServiceError> {
        let deleted = Tokens::new(self.store.clone()).delete(name).await;
        deleted.map_err(|error| token_failed(&error))?;
        tracing::info!(token = name, "a token of the API is deleted");
        self.happened(
            "token-deleted",
            Severity::Info,
            about("token", name, name),
            format!("token {name:?} was deleted"),
        );
        self.until_known(|contents| contents.tokens().all(|known| known.name != name))
            .await;
        Ok(())
    }

    fn authenticate(&self, token: &str) -> Option<Role> {
        let given = hash(token);
        let now = SystemTime::now();
        self.catalogue
            .read(|contents| judge(contents.tokens(), &given, now))
    }
}

/// What the token of a hash allows. Every token that there is is looked at, and none longer than another.
fn judge<'a>(
    tokens: impl Iterator<Item = &'a TokenRecord>,
    given: &[u8; 32],
    now: SystemTime,
) -> Option<Role> {
    const NOTHING: u8 = 0;
    const VIEWER: u8 = 1;
    const ADMIN: u8 = 2;
    let mut allowed = NOTHING;
    for token in tokens {
        let role = match token.role {
            StoredRole::Viewer => VIEWER,
            StoredRole::Admin => ADMIN,
        };
        let (known, is_hash) = unhex(&token.hash);
        let alive = token.expires_at.is_none_or(|end| SystemTime::from(end) > now);
        let fits = known.ct_eq(given) & Choice::from(u8::from(is_hash && alive));
        allowed = u8::conditional_select(&allowed, &role, fits);
    }
    match allowed {
        VIEWER => Some(Role::Viewer),
        ADMIN => Some(Role::Admin),
        _ => None,
    }
}

fn random_token() -> Result<String, ServiceError> {
    let mut random = [0; RANDOM];
    OsRng.try_fill_bytes(&mut random).map_err(|error| {
        ServiceError::Failed(format!("the system gives no random bytes for a token: {error}"))
    })?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that 64 hexadecimal digits are, and whether they were.
fn unhex(text: &str) -> ([u8; 32], bool) {
    let mut bytes = [0; 32];
    let mut sound = text.len() == 64 && text.is_ascii();
    for (n, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * n..2 * n + 2).unwrap_or_default();
        match u8::from_str_radix(digits, 16) {
            Ok(value) => *byte = value,
            Err(_) => sound = false,
        }
    }
    (bytes, sound)
}

const fn role_word(role: StoredRole) -> &'static str {
    match role {
        StoredRole::Viewer => "viewer",
        StoredRole::Admin => "admin",
    }
}

fn view(token: &TokenRecord, now: SystemTime) -> TokenView {
    let expires_at = token.expires_at.map(SystemTime::from);
    TokenView {
        name: token.name.clone(),
        role: match token.role {
            StoredRole::Viewer => Role::Viewer,
            StoredRole::Admin => Role::Admin,
        },
        created_at: token.created_at.into(),
        expires_at,
        expired: expires_at.is_some_and(|end| end <= now),
    }
}

fn token_failed(error: &TokenError) -> ServiceError {
    let message = error.to_string();
    match error {
        TokenError::NoSuch { .. } => ServiceError::NoSuch(message),
        TokenError::Exists(_) => ServiceError::Conflict(message),
        TokenError::Store(_) => ServiceError::Unavailable(message),
        TokenError::Schema(_) => ServiceError::Invalid(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, token: &str, role: StoredRole, expires_at: Option<SystemTime>) -> TokenRecord {
        TokenRecord {
            name: name.to_owned(),
            role,
            hash: hex(&hash(token)),
            created_at: Timestamp::now(),
            expires_at: expires_at.map(Timestamp::from),
            extra: Extra::new(),
        }
    }

    #[test]
    fn only_a_token_that_is_known_and_has_not_ended_allows_something() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let tokens = [
            record("look", "t1", StoredRole::Viewer, None),
            record("do", "t2", StoredRole::Admin, Some(now + hour)),
            record("old", "t3", StoredRole::Admin, Some(now - hour)),
        ];
        let allowed = |token: &str| judge(tokens.iter(), &hash(token), now);
        assert_eq!(allowed("t1"), Some(Role::Viewer));
        assert_eq!(allowed("t2"), Some(Role::Admin));
        assert_eq!(allowed("t3"), None, "it has ended");
        for wrong in ["", "t", "t4", &tokens[1].hash] {
            assert_eq!(allowed(wrong), None, "{wrong:?}");
        }
        let damaged = TokenRecord {
            hash: "zz".repeat(32),
            ..tokens[0].clone()
        };
        assert_eq!(judge([&damaged].into_iter(), &[0; 32], now), None);
    }

    #[test]
    fn tokens_differ_and_are_known_for_what_they_are() -> anyhow::Result<()> {
        let (first, second) = (random_token()?, random_token()?);
        assert!(first.starts_with(PREFIX) && first != second);
        assert_eq!(first.len(), PREFIX.len() + 43, "256 bits");
        Ok(())
    }
}
