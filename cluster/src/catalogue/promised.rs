//! What has been promised of each pool, and where each group has volumes: kept in step with every change of a volume, so that
//! placing one does not have to look at all the others. Says what [`View::add_volume`] over all volumes would say.

use std::collections::BTreeMap;

use bulkhead_engine::ids::{NodeId, PoolId, VolumeId};

use crate::placement::View;
use crate::schema::VolumeRecord;

#[derive(Debug, Default)]
pub(super) struct Promised {
    pools: BTreeMap<PoolId, u128>,
    groups: BTreeMap<(String, NodeId), BTreeMap<VolumeId, String>>,
}

impl Promised {
    pub(super) fn add(&mut self, volume: &VolumeRecord) {
        for replica in &volume.replicas {
            *self.pools.entry(replica.pool).or_default() += u128::from(volume.spec.size);
            if let Some(group) = &volume.spec.group {
                self.groups
                    .entry((group.clone(), replica.node))
                    .or_default()
                    .insert(volume.id, volume.name.clone());
            }
        }
    }

    /// Takes back what [`Self::add`] added for the same record.
    pub(super) fn remove(&mut self, volume: &VolumeRecord) {
        for replica in &volume.replicas {
            if let Some(bytes) = self.pools.get_mut(&replica.pool) {
                *bytes = bytes.saturating_sub(u128::from(volume.spec.size));
                if *bytes == 0 {
                    self.pools.remove(&replica.pool);
                }
            }
            if let Some(group) = &volume.spec.group {
                let key = (group.clone(), replica.node);
                if let Some(volumes) = self.groups.get_mut(&key) {
                    volumes.remove(&volume.id);
                    if volumes.is_empty() {
                        self.groups.remove(&key);
                    }
                }
            }
        }
    }

    /// Adds it all to a cluster without volumes.
    pub(super) fn tell(&self, view: &mut View) {
        for (pool, bytes) in &self.pools {
            if let Some(pool) = view.pools.get_mut(pool) {
                pool.allocated = u64::try_from(*bytes).unwrap_or(u64::MAX);
            }
        }
        for ((group, node), volumes) in &self.groups {
            if let Some(volume) = volumes.values().next() {
                view.add_group(group, *node, volume);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::PoolView;
    use crate::schema::{IoPriority, VolumeSpec};
    use crate::volumes::{NewVolume, Placed};

    fn volume(name: usize, size: u64, pools: &[u128], group: Option<&str>) -> Result<VolumeRecord, String> {
        let places: Vec<Placed> = pools
            .iter()
            .map(|pool| Placed {
                node: NodeId::from_u128(*pool),
                pool: PoolId::from_u128(*pool),
            })
            .collect();
        let mut spec = VolumeSpec::new(size);
        spec.repl = pools.len() as u8;
        spec.group = group.map(str::to_owned);
        NewVolume::new(&format!("v{name}"), spec, &places, NodeId::from_u128(1))
            .map(NewVolume::into_record)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn it_says_what_a_look_at_all_volumes_says() -> Result<(), String> {
        let pool = |id: u128| PoolView {
            id: PoolId::from_u128(id),
            node: NodeId::from_u128(id),
            priority: IoPriority::High,
            capacity: 1 << 40,
            free: 1 << 40,
            allocated: 0,
            overcommit_percent: 100,
            usable: true,
        };
        let volumes: Vec<VolumeRecord> = (0..40_usize)
            .map(|number| {
                let first = number as u128 % 5;
                let group = [None, Some("a"), Some("b")][number % 3];
                volume(number, 1 << (30 + number % 3), &[first, first + 1], group)
            })
            .collect::<Result<_, _>>()?;
        let mut promised = Promised::default();
        volumes.iter().for_each(|volume| promised.add(volume));
        for gone in 0..=volumes.len() {
            let (mut told, mut looked) = (View::new([], (0..6).map(pool)), View::new([], (0..6).map(pool)));
            promised.tell(&mut told);
            volumes
                .iter()
                .skip(gone)
                .for_each(|volume| looked.add_volume(volume));
            assert_eq!(told, looked, "{gone} are gone");
            if let Some(volume) = volumes.get(gone) {
                promised.remove(volume);
            }
        }
        assert!(promised.pools.is_empty() && promised.groups.is_empty());
        Ok(())
    }
}
