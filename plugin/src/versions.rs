//! What a program speaks and writes: its own version, the wire protocol, the files of replicas, the records in the store.
//!
//! It owns the form in which a program tells this (`bulkhead version --json`), and the rule by which one may take the place of
//! another. It must never let a program in that could not read what is there.

use std::collections::BTreeMap;

use bulkhead_cluster::nodes::versions_fit;
use bulkhead_cluster::schema::written_versions;
use bulkhead_engine::format::FORMAT_VERSION;
use bulkhead_engine::wire::VersionRange;
use serde::{Deserialize, Serialize};

/// The name by which a program is known as this one.
const NAME: &str = "bulkhead";

/// What a program tells of itself. What a newer one adds is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Always `bulkhead`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The versions of the wire protocol that it speaks.
    pub wire: Span,
    /// The version of replicas' files that it writes; it reads older ones.
    pub disk: u32,
    /// The version of each kind of record that it writes; it reads older ones.
    pub records: BTreeMap<String, u32>,
}

/// From the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// Those of this program.
    pub fn ours() -> Self {
        let records = written_versions().into_iter();
        Self {
            name: NAME.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: Span {
                oldest: VersionRange::OURS.oldest,
                newest: VersionRange::OURS.newest,
            },
            disk: FORMAT_VERSION,
            records: records
                .map(|(kind, version)| (kind.to_owned(), version))
                .collect(),
        }
    }

    /// Whether it is a program of this name at all.
    pub fn is_bulkhead(&self) -> bool {
        self.name == NAME
    }

    /// Why it cannot take the place of `old` in a cluster with nodes of these versions; one sentence each.
    pub fn obstacles(&self, old: &Self, nodes: &BTreeMap<String, String>) -> Vec<String> {
        let mut obstacles = Vec::new();
        for (node, version) in nodes {
            if !versions_fit(&self.version, version) {
                obstacles.push(format!(
                    "it is version {}, and node {node} runs {version}: those are more than one minor version apart; upgrade \
                     one minor version at a time, every node before the next",
                    self.version
                ));
            }
        }
        if self.wire.newest < old.wire.oldest || old.wire.newest < self.wire.oldest {
            obstacles.push(format!(
                "it speaks {} of the wire protocol, and the nodes of this cluster speak {}: they would not understand each other",
                self.wire.words(),
                old.wire.words()
            ));
        }
        if self.disk < old.disk {
            obstacles.push(format!(
                "it reads replicas up to format {}, and the installed program writes format {}",
                self.disk, old.disk
            ));
        }
        for (kind, version) in &old.records {
            match self.records.get(kind) {
                Some(known) if known >= version => {}
                Some(known) => obstacles.push(format!(
                    "it reads the {kind} up to version {known}, and the installed program writes version {version}"
                )),
                None => obstacles.push(format!(
                    "it does not know the {kind}, which the installed program writes"
                )),
            }
        }
        obstacles
    }
}

impl Span {
    /// `version 1`, `versions 1 to 3`.
    pub fn words(self) -> String {
        if self.oldest == self.newest {
            format!("version {}", self.newest)
        } else {
            format!("versions {} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(version: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("n2".to_owned(), version.to_owned())])
    }

    #[test]
    fn a_program_fits_in_its_own_place_and_a_newer_one_too() {
        let ours = Versions::ours();
        assert!(ours.is_bulkhead());
        assert_eq!(ours.obstacles(&ours, &nodes(&ours.version)), Vec::<String>::new());
        let mut newer = ours.clone();
        newer.wire.newest += 1;
        newer.disk += 1;
        newer.records.values_mut().for_each(|version| *version += 1);
        newer.records.insert("something new".to_owned(), 1);
        assert_eq!(newer.obstacles(&ours, &nodes("0.1.7")), Vec::<String>::new());
    }

    #[test]
    fn what_could_not_read_what_is_there_is_refused() {
        type Spoil = (&'static str, fn(&mut Versions));
        let ours = Versions::ours();
        let spoil: [Spoil; 5] = [
            ("more than one minor version", |v| v.version = "0.9.0".to_owned()),
            ("wire protocol", |v| v.wire = Span { oldest: 8, newest: 9 }),
            ("reads replicas up to format 0", |v| v.disk = 0),
            ("reads the volume record up to version 0", |v| {
                v.records.insert("volume record".to_owned(), 0);
            }),
            ("does not know the volume record", |v| {
                v.records.remove("volume record");
            }),
        ];
        for (why, spoil) in spoil {
            let mut other = ours.clone();
            spoil(&mut other);
            let told = other.obstacles(&ours, &nodes("0.1.0"));
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains(why), "{told:?}");
        }
    }

    #[test]
    fn fields_that_are_not_known_are_passed_over() {
        let mut told = serde_json::to_value(Versions::ours()).unwrap();
        told["more"] = 1.into();
        assert_eq!(
            serde_json::from_value::<Versions>(told).unwrap(),
            Versions::ours()
        );
    }
}
