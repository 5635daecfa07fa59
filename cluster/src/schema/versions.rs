//! The versions of records that this program writes, by kind: what an upgrade compares before it replaces a program.
//!
//! It must name every kind of record that lies in the store; a test holds the list against the sources.

use std::collections::BTreeMap;

use super::{
    AlertRecord, ClassRecord, ClusterRecord, DefaultClassRecord, EventRecord, LiveRecord, NameRecord,
    NodeNameRecord, NodeRecord, PoolRecord, Record, TokenRecord, VolumeRecord,
};

/// The version that is written of each kind of record.
pub fn written_versions() -> BTreeMap<&'static str, u32> {
    [
        of::<AlertRecord>(),
        of::<ClassRecord>(),
        of::<ClusterRecord>(),
        of::<DefaultClassRecord>(),
        of::<EventRecord>(),
        of::<LiveRecord>(),
        of::<NameRecord>(),
        of::<NodeNameRecord>(),
        of::<NodeRecord>(),
        of::<PoolRecord>(),
        of::<TokenRecord>(),
        of::<VolumeRecord>(),
    ]
    .into()
}

const fn of<R: Record>() -> (&'static str, u32) {
    (R::KIND, R::VERSION)
}

#[cfg(test)]
mod tests {
    use super::written_versions;

    #[test]
    fn every_kind_of_record_is_listed() {
        let sources = [
            include_str!("access.rs"),
            include_str!("event.rs"),
            include_str!("node.rs"),
            include_str!("volume.rs"),
        ];
        let known = written_versions();
        let mut kinds = 0;
        for line in sources.iter().flat_map(|source| source.lines()) {
            let kind = line.trim().strip_prefix("const KIND: &'static str = \"");
            if let Some(kind) = kind.and_then(|rest| rest.strip_suffix("\";")) {
                assert!(known.contains_key(kind), "{kind:?} is not listed");
                kinds += 1;
            }
        }
        assert_eq!(kinds, known.len());
    }
}
