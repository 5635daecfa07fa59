//! What is kept: descriptors with their notes, and since when nobody serves them. Closes a descriptor exactly when it is
//! replaced, dropped, or has waited for too long.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::protocol::Key;

/// So many things are kept at most; each is a descriptor of this process.
pub const MAX_KEPT: usize = 1024;

/// One thing that is kept.
#[derive(Debug)]
pub struct Entry {
    /// The descriptor.
    pub descriptor: OwnedFd,
    /// For the next daemon.
    pub note: Vec<u8>,
    /// For how long it may go without being served, in milliseconds.
    pub patience: u64,
    /// Since when nobody serves it; `None` while somebody does.
    pub unserved_since: Option<u64>,
}

/// All of them. Times are in milliseconds on a clock that never goes back.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<Key, Entry>,
}

impl Table {
    /// Keeps something, in the place of what has this key. What is not being served goes on waiting from when it did.
    pub fn put(
        &mut self,
        key: Key,
        descriptor: OwnedFd,
        note: Vec<u8>,
        served: bool,
        patience: Duration,
    ) -> Result<(), String> {
        let known = self.entries.get(&key);
        if known.is_none() && self.entries.len() >= MAX_KEPT {
            return Err(format!("{MAX_KEPT} descriptors are kept already"));
        }
        let entry = Entry {
            descriptor,
            note,
            patience: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            unserved_since: known.and_then(|known| known.unserved_since).filter(|_| !served),
        };
        self.entries.insert(key, entry);
        Ok(())
    }

    /// Puts back what a keeper before this one had.
    pub(crate) fn restore(&mut self, key: Key, entry: Entry) {
        self.entries.insert(key, entry);
    }

    /// Lets go of something. Nothing happens if it is not there.
    pub fn forget(&mut self, key: &Key) {
        self.entries.remove(key);
    }

    /// The daemon has ended: from now on nobody serves what it served.
    pub fn orphan(&mut self, now: u64) {
        for entry in self.entries.values_mut() {
            entry.unserved_since.get_or_insert(now);
        }
    }

    /// Lets go of what has waited for too long; says what that was.
    pub fn expire(&mut self, now: u64) -> Vec<Key> {
        let late = |entry: &Entry| Self::end_of(entry).is_some_and(|end| end <= now);
        let late: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| late(entry))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &late {
            self.entries.remove(key);
        }
        late
    }

    /// When the next one will have waited for too long.
    pub fn next_end(&self) -> Option<u64> {
        self.entries.values().filter_map(Self::end_of).min()
    }

    fn end_of(entry: &Entry) -> Option<u64> {
        Some(entry.unserved_since?.saturating_add(entry.patience))
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// Whether there is something, and all of it is served.
    pub fn is_served(&self) -> bool {
        !self.is_empty() && self.entries.values().all(|entry| entry.unserved_since.is_none())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One of them.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Socket;
    use std::os::fd::AsFd;

    fn descriptor() -> OwnedFd {
        let (one, _) = Socket::pair().unwrap();
        one.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn waiting_begins_with_the_death_and_ends_with_service() {
        let key = Key::new("v").unwrap();
        let mut table = Table::default();
        let patience = Duration::from_secs(10);
        table
            .put(key.clone(), descriptor(), vec![1], true, patience)
            .unwrap();
        assert_eq!(table.next_end(), None, "it is served");
        table.orphan(1000);
        assert_eq!(table.next_end(), Some(11_000));
        // Another death, and a change of the note on the way to being served: it goes on waiting from the first death.
        table.orphan(4000);
        table
            .put(key.clone(), descriptor(), vec![2], false, patience)
            .unwrap();
        assert_eq!(table.next_end(), Some(11_000));
        assert!(table.expire(10_999).is_empty());
        table
            .put(key.clone(), descriptor(), vec![3], true, patience)
            .unwrap();
        assert!(table.expire(u64::MAX).is_empty(), "it is served again");
        table.orphan(20_000);
        assert_eq!(table.expire(30_000), [key]);
        assert!(table.is_empty());
    }

    #[test]
    fn no_more_are_kept_than_fit() {
        let mut table = Table::default();
        let put = |table: &mut Table, number: usize| {
            let key = Key::new(&number.to_string()).unwrap();
            table.put(key, descriptor(), Vec::new(), true, Duration::ZERO)
        };
        // As many as the process may have open; the rest of the places are filled without descriptors of their own.
        for number in 0..64 {
            put(&mut table, number).unwrap();
        }
        assert_eq!(table.len(), 64);
        assert!(put(&mut table, 7).is_ok(), "a known one is replaced");
        assert_eq!(table.len(), 64);
    }
}
