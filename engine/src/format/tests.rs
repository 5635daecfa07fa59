//! Properties of the format: what is written is read back, and no bytes make it panic.

use proptest::prelude::*;

use super::*;
use crate::geometry::{Chunk, Geometry, Region};
use crate::ids::{BootId, ClusterId, Epoch, Incarnation, ReplicaId, Tick, VolumeId};

fn any_tick() -> impl Strategy<Value = Tick> {
    (0..u64::MAX).prop_map(Tick::from_bits)
}

prop_compose! {
    fn any_identity()(cluster: u128, volume: u128, replica: u128) -> ReplicaIdentity {
        ReplicaIdentity {
            cluster: ClusterId::from_u128(cluster),
            volume: VolumeId::from_u128(volume),
            replica: ReplicaId::from_u128(replica),
        }
    }
}

prop_compose! {
    fn any_superblock()(
        identity in any_identity(),
        mib in 1u64..300,
        sequence in 0..u64::MAX / 2,
        incarnation: u128,
        boot: u128,
        whole: bool,
        clean: bool,
        failed in prop_oneof![
            Just(None),
            Just(Some(FailCause::Write)),
            Just(Some(FailCause::Sync)),
            Just(Some(FailCause::Read)),
            Just(Some(FailCause::Checksum)),
        ],
        epoch: u32,
        durable in any_tick(),
        settled in any_tick(),
    ) -> Superblock {
        Superblock {
            identity,
            geometry: Geometry::for_size(mib << 20).unwrap(),
            sequence,
            incarnation: Incarnation::from_u128(incarnation),
            boot: BootId::from_u128(boot),
            whole,
            clean,
            failed,
            epoch: Epoch(epoch),
            attached_by: Incarnation::from_u128(incarnation / 3),
            durable,
            settled,
        }
    }
}

fn any_image() -> impl Strategy<Value = MetaImage> {
    (
        any_superblock(),
        prop::collection::vec(any::<u32>(), 0..50),
        prop::collection::vec((any::<u32>(), any_tick()), 0..200),
    )
        .prop_map(|(superblock, regions, stamps)| {
            let mut image = MetaImage::fresh(superblock);
            for region in regions {
                image.intent.set(Region(region % image.intent.regions()), true);
            }
            for (chunk, tick) in stamps {
                image.stamps.set(Chunk(chunk % image.stamps.chunks()), tick);
            }
            image
        })
}

/// Both slots, the older one first by sequence.
fn two_slots(older: &Superblock) -> (Superblock, Vec<u8>) {
    let newer = Superblock {
        sequence: older.sequence + 1,
        clean: !older.clean,
        ..*older
    };
    let mut file = vec![0; SUPERBLOCKS_LEN];
    for superblock in [older, &newer] {
        let at = MetaLayout::slot_offset(superblock.sequence) as usize;
        file[at..at + SLOT_LEN].copy_from_slice(&superblock.encode());
    }
    (newer, file)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_image_is_read_back_as_written(image in any_image()) {
        let bytes = image.encode().unwrap();
        let layout = MetaLayout::new(&image.superblock.geometry).unwrap();
        prop_assert_eq!(bytes.len() as u64, layout.file_len());
        let mut read = MetaImage::decode(&bytes).unwrap();
        prop_assert_eq!(read.superblock.sequence, image.superblock.sequence + 1);
        read.superblock.sequence = image.superblock.sequence;
        prop_assert_eq!(read, image);
    }

    #[test]
    fn the_newest_valid_slot_counts(older in any_superblock()) {
        let (newer, file) = two_slots(&older);
        prop_assert_eq!(Slots::decode(&file), Ok(Slots { newest: newer, both_valid: true }));
    }

    #[test]
    fn a_torn_superblock_leaves_the_other_slot(
        older in any_superblock(),
        next_epoch: u32,
        // Which of the slot's eight sectors reached the disk.
        landed in 0u8..=255,
    ) {
        let (newest, mut file) = two_slots(&older);
        let next = Superblock { sequence: newest.sequence + 1, epoch: Epoch(next_epoch), ..newest };
        let bytes = next.encode();
        let at = MetaLayout::slot_offset(next.sequence) as usize;
        for sector in (0..8).filter(|sector| landed & (1 << sector) != 0) {
            let part = sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN;
            file[at..at + SLOT_LEN][part.clone()].copy_from_slice(&bytes[part]);
        }
        let found = Slots::decode(&file).unwrap().newest;
        let whole = file[at..at + SLOT_LEN] == bytes;
        prop_assert_eq!(found, if whole { next } else { newest });
    }

    #[test]
    fn a_flipped_bit_is_never_taken_for_good(image in any_image(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = image.encode().unwrap();
        let sound = MetaImage::decode(&bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        match MetaImage::decode(&bytes) {
            // In a slot: the other one stands in. In the room between the parts: nothing reads it.
            Ok(read) if at < SUPERBLOCKS_LEN => prop_assert!(!read.both_slots_valid),
            Ok(read) => prop_assert_eq!(read, sound),
            Err(FormatError::DamagedSector { .. }) => prop_assert!(at >= SUPERBLOCKS_LEN),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert!(MetaImage::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_in_a_sound_file_never_panic(
        image in any_image(),
        patches in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 32]>()), 1..20),
        keep: prop::sample::Index,
    ) {
        let mut bytes = image.encode().unwrap();
        for (at, patch) in patches {
            let at = at.index(bytes.len());
            let len = patch.len().min(bytes.len() - at);
            bytes[at..at + len].copy_from_slice(&patch[..len]);
        }
        let _ = MetaImage::decode(&bytes);
        bytes.truncate(keep.index(bytes.len()));
        prop_assert!(MetaImage::decode(&bytes).is_err(), "a truncated file is refused");
    }

    #[test]
    fn fields_of_a_sealed_slot_are_checked(superblock in any_superblock(), at in 8usize..152, to: u8) {
        // A checksum only shows that the bytes are those that were written, not that they make sense.
        let mut slot = superblock.encode();
        slot[at] = to;
        let crc = crc32c::crc32c(&slot[..SLOT_LEN - 4]);
        slot[SLOT_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        let mut file = vec![0; SUPERBLOCKS_LEN];
        let place = MetaLayout::slot_offset(superblock.sequence) as usize;
        file[place..place + SLOT_LEN].copy_from_slice(&slot);
        let _ = Slots::decode(&file);
        let _ = MetaImage::decode(&file);
    }
}

fn sample() -> MetaImage {
    let identity = ReplicaIdentity {
        cluster: ClusterId::from_u128(1),
        volume: VolumeId::from_u128(2),
        replica: ReplicaId::from_u128(3),
    };
    let geometry = Geometry::for_size(1 << 30).unwrap();
    MetaImage::fresh(Superblock::fresh(identity, geometry, BootId::from_u128(4)))
}

#[test]
fn a_sector_of_zeroes_says_nothing() {
    let image = sample();
    let mut bytes = image.encode().unwrap();
    bytes[SUPERBLOCKS_LEN..].fill(0);
    let read = MetaImage::decode(&bytes).unwrap();
    assert_eq!((read.intent, read.stamps), (image.intent, image.stamps));
}

#[test]
fn a_sector_in_the_wrong_place_or_file_is_damage() {
    let mut image = sample();
    image.stamps.set(Chunk(70), Tick::new(Epoch(1), 1));
    let mut bytes = image.encode().unwrap();
    let (first, second) = (
        MetaLayout::stamps_offset(0) as usize,
        MetaLayout::stamps_offset(1) as usize,
    );
    bytes.copy_within(second..second + SECTOR_LEN, first);
    assert_eq!(
        MetaImage::decode(&bytes),
        Err(FormatError::DamagedSector {
            area: Area::Stamps,
            sector: 0
        })
    );

    let mut bytes = image.encode().unwrap();
    let foreign = image.stamps.encode_sector(ReplicaId::from_u128(99), 1);
    bytes[second..second + SECTOR_LEN].copy_from_slice(&foreign);
    assert_eq!(
        MetaImage::decode(&bytes),
        Err(FormatError::DamagedSector {
            area: Area::Stamps,
            sector: 1
        })
    );
}

#[test]
fn a_newer_format_is_named_not_guessed() {
    let image = sample();
    let mut bytes = image.encode().unwrap();
    let slot = &mut bytes[SLOT_LEN..SUPERBLOCKS_LEN];
    slot[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let crc = crc32c::crc32c(&slot[..SLOT_LEN - 4]);
    slot[SLOT_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    let refused = Err(FormatError::Version {
        found: FORMAT_VERSION + 1,
        known: FORMAT_VERSION,
    });
    assert_eq!(MetaImage::decode(&bytes), refused);
}

#[test]
fn slots_of_two_replicas_are_refused() {
    let image = sample();
    let mut bytes = image.encode().unwrap();
    let mut other = image.superblock;
    other.identity.replica = ReplicaId::from_u128(9);
    other.sequence = 1;
    bytes[SLOT_LEN..SUPERBLOCKS_LEN].copy_from_slice(&other.encode());
    assert_eq!(MetaImage::decode(&bytes), Err(FormatError::MixedSuperblocks));
}

#[test]
fn both_slots_damaged_is_told_from_no_replica_at_all() {
    let mut bytes = sample().encode().unwrap();
    bytes[100] ^= 1;
    bytes[SLOT_LEN + 100] ^= 1;
    assert_eq!(MetaImage::decode(&bytes), Err(FormatError::DamagedSuperblock));
    bytes[..SUPERBLOCKS_LEN].fill(0);
    assert_eq!(MetaImage::decode(&bytes), Err(FormatError::NoSuperblock));
}

#[test]
fn every_volume_at_create_fits_the_intent_area() {
    for shift in 0..=30 {
        let geometry = Geometry::for_size(1 << (20 + shift)).unwrap();
        let layout = MetaLayout::new(&geometry).unwrap();
        assert!(MetaLayout::intent_offset(layout.intent_sectors()) <= STAMPS_OFFSET);
        assert!(layout.file_len() <= STAMPS_OFFSET + (9 << 20));
    }
    let grown = Geometry::new(1 << 50, 1 << 20, 4 << 20).unwrap();
    assert!(matches!(
        MetaLayout::new(&grown),
        Err(FormatError::TooManyRegions { .. })
    ));
}

#[test]
fn the_layout_is_the_documented_one() {
    // These numbers are on people's disks: docs/on-disk-format.md.
    assert_eq!((INTENT_OFFSET, STAMPS_OFFSET), (8192, 1 << 20));
    assert_eq!((REGIONS_PER_SECTOR, STAMPS_PER_SECTOR), (3968, 62));
    let mut image = sample();
    image.superblock.epoch = Epoch(7);
    image.superblock.durable = Tick::new(Epoch(7), 9);
    image.intent.set(Region(9), true);
    image.stamps.set(Chunk(63), Tick::new(Epoch(2), 5));
    let bytes = image.encode().unwrap();
    assert_eq!(&bytes[..8], b"BULKHEAD");
    assert_eq!(bytes[8..12], 1u32.to_le_bytes());
    assert_eq!(bytes[56..72], image.superblock.identity.replica.to_bytes());
    assert_eq!(bytes[128..132], 7u32.to_le_bytes());
    assert_eq!(bytes[136..144], (7u64 << 32 | 9).to_le_bytes());
    assert_eq!(bytes[8192 + 12 + 1], 2);
    let stamp = (1 << 20) + 512 + 12 + 8;
    assert_eq!(bytes[stamp..stamp + 8], (2u64 << 32 | 5).to_le_bytes());
}
