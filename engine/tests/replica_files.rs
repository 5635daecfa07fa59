//! The files of a replica on a real file system: created whole or not at all, opened once and only as whom they
//! are, removed whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use bulkhead_engine::disk::{
    self, BlockFile, Caching, DATA_FILE, DiskError, META_FILE, OsFile, ReplicaFiles,
};
use bulkhead_engine::format::{FormatError, MetaImage, MetaLayout, ReplicaIdentity};
use bulkhead_engine::geometry::{ByteRange, Geometry};
use bulkhead_engine::ids::{ClusterId, ReplicaId, VolumeId};
use bulkhead_engine::io::AlignedBuf;
use tempfile::TempDir;

const SIZE: u64 = 64 << 20;

fn identity(replica: u128) -> ReplicaIdentity {
    ReplicaIdentity {
        cluster: ClusterId::from_u128(1),
        volume: VolumeId::from_u128(2),
        replica: ReplicaId::from_u128(replica),
    }
}

fn create(dir: &Path, replica: u128) {
    disk::create(dir, identity(replica), Geometry::for_size(SIZE).unwrap()).unwrap();
}

fn open(dir: &Path, replica: u128) -> Result<ReplicaFiles, DiskError> {
    disk::open(dir, &identity(replica), Caching::PageCache)
}

/// The error of an open that must fail.
fn refused(dir: &Path, replica: u128) -> DiskError {
    match open(dir, replica) {
        Ok(_) => panic!("{} was opened", dir.display()),
        Err(error) => error,
    }
}

#[test]
fn a_new_replica_is_sparse_data_and_whole_metadata() {
    let pool = TempDir::new().unwrap();
    let dir = pool.path().join("v");
    create(&dir, 3);
    let data = fs::metadata(dir.join(DATA_FILE)).unwrap();
    assert_eq!((data.len(), data.blocks()), (SIZE, 0));
    let meta = fs::metadata(dir.join(META_FILE)).unwrap();
    let layout = MetaLayout::new(&Geometry::for_size(SIZE).unwrap()).unwrap();
    assert_eq!(meta.len(), layout.file_len());
    assert!(
        meta.blocks() * 512 >= meta.len(),
        "metadata takes up its space from the start"
    );

    let files = open(&dir, 3).unwrap();
    assert!(files.image.superblock.clean && files.image.superblock.whole && files.image.both_slots_valid);
    assert_eq!(files.image.intent.count(), 0);
    assert!(matches!(
        disk::create(&dir, identity(3), Geometry::for_size(SIZE).unwrap()),
        Err(DiskError::Exists(_))
    ));
    assert_eq!(names_in(pool.path()), ["v"]);
}

#[test]
fn a_second_open_is_refused_until_the_first_is_gone() {
    let pool = TempDir::new().unwrap();
    let dir = pool.path().join("v");
    create(&dir, 3);
    let first = open(&dir, 3).unwrap();
    assert!(matches!(refused(&dir, 3), DiskError::InUse(_)));
    assert!(matches!(disk::delete(&dir), Err(DiskError::InUse(_))));
    assert!(disk::inspect(&dir).unwrap().in_use);
    drop(first);
    assert!(!disk::inspect(&dir).unwrap().in_use);
    open(&dir, 3).unwrap();
}

#[test]
fn a_swapped_directory_is_refused_and_left_alone() {
    let pool = TempDir::new().unwrap();
    let (ours, theirs, aside) = (
        pool.path().join("a"),
        pool.path().join("b"),
        pool.path().join("c"),
    );
    create(&ours, 3);
    create(&theirs, 4);
    fs::rename(&ours, &aside).unwrap();
    fs::rename(&theirs, &ours).unwrap();
    fs::rename(&aside, &theirs).unwrap();
    let before = fs::read(ours.join(META_FILE)).unwrap();
    let error = refused(&ours, 3);
    assert!(matches!(error, DiskError::Foreign { .. }), "{error}");
    assert!(
        error.to_string().contains(&identity(4).replica.to_string()),
        "{error}"
    );
    assert_eq!(fs::read(ours.join(META_FILE)).unwrap(), before);
    open(&ours, 4).unwrap();
}

#[test]
fn a_foreign_data_or_metadata_file_is_refused() {
    let pool = TempDir::new().unwrap();
    let dir = pool.path().join("v");
    create(&dir, 3);
    let data = fs::File::options().write(true).open(dir.join(DATA_FILE)).unwrap();
    data.set_len(SIZE - 512).unwrap();
    assert!(matches!(refused(&dir, 3), DiskError::DataLength { .. }));
    data.set_len(SIZE).unwrap();
    open(&dir, 3).unwrap();

    // One rotten byte in the stamps, and then a file of noise.
    let meta = fs::File::options().write(true).open(dir.join(META_FILE)).unwrap();
    meta.write_all_at(&[1], MetaLayout::stamps_offset(2) + 50)
        .unwrap();
    let error = refused(&dir, 3);
    assert!(
        matches!(
            error,
            DiskError::Format {
                source: FormatError::DamagedSector { sector: 2, .. },
                ..
            }
        ),
        "{error}"
    );
    fs::write(dir.join(META_FILE), vec![0x5a; 3 << 20]).unwrap();
    assert!(matches!(
        refused(&dir, 3),
        DiskError::Format {
            source: FormatError::NoSuperblock,
            ..
        }
    ));
    fs::write(dir.join(META_FILE), b"short").unwrap();
    assert!(matches!(
        refused(&dir, 3),
        DiskError::Format {
            source: FormatError::Short { .. },
            ..
        }
    ));
}

#[test]
fn removal_is_whole_and_can_be_repeated() {
    let pool = TempDir::new().unwrap();
    let dir = pool.path().join("v");
    create(&dir, 3);
    assert!(disk::delete(&dir).unwrap());
    assert!(!disk::delete(&dir).unwrap());
    assert!(matches!(refused(&dir, 3), DiskError::Missing(_)));
    assert!(names_in(pool.path()).is_empty());
}

#[test]
fn what_a_crash_left_half_done_is_swept() {
    let pool = TempDir::new().unwrap();
    create(&pool.path().join("v"), 3);
    fs::create_dir(pool.path().join(".w.creating")).unwrap();
    fs::write(pool.path().join(".w.creating/data"), b"x").unwrap();
    fs::create_dir(pool.path().join(".x.deleting")).unwrap();
    fs::create_dir(pool.path().join("someone-else")).unwrap();
    assert_eq!(disk::sweep(pool.path()).unwrap(), 2);
    assert_eq!(names_in(pool.path()), ["someone-else", "v"]);
    // A creation goes ahead where an earlier one died.
    fs::create_dir(pool.path().join(".w.creating")).unwrap();
    create(&pool.path().join("w"), 5);
    open(&pool.path().join("w"), 5).unwrap();
}

#[test]
fn reads_writes_and_holes_are_the_same_with_and_without_the_page_cache() {
    for caching in [Caching::PageCache, Caching::Direct] {
        let pool = TempDir::new().unwrap();
        let dir = pool.path().join("v");
        create(&dir, 3);
        let file: Arc<dyn BlockFile> = Arc::new(OsFile::open(&dir.join(DATA_FILE), caching).unwrap());
        let mut written = AlignedBuf::zeroed(64 << 10);
        written.fill(7);
        file.write_at(&written, 1 << 20).unwrap();
        // Off the buffer's alignment, on a sector's.
        file.write_at(&written[512..1024], 512).unwrap();
        let mut read = vec![1; 1536];
        file.read_at(&mut read, 0).unwrap();
        assert!(read[..512].iter().chain(&read[1024..]).all(|&byte| byte == 0));
        assert!(read[512..1024].iter().all(|&byte| byte == 7));
        let second = file.next_data(512 << 10).unwrap().unwrap();
        assert_eq!((second.offset, second.len), (1 << 20, 64 << 10));

        let before = file.allocated().unwrap();
        file.zero(ByteRange::new(1 << 20, 64 << 10)).unwrap();
        file.sync().unwrap();
        assert!(file.allocated().unwrap() < before, "space is given back");
        assert_eq!(file.next_data(512 << 10).unwrap(), None);
        assert!(
            file.read_at(&mut [0; 1024], SIZE - 512).is_err(),
            "beyond the end"
        );
        assert_eq!(file.len().unwrap(), SIZE);
    }
}

#[test]
fn inspection_counts_what_is_unsettled() {
    let pool = TempDir::new().unwrap();
    let dir = pool.path().join("v");
    create(&dir, 3);
    let bytes = fs::read(dir.join(META_FILE)).unwrap();
    let mut image = MetaImage::decode(&bytes).unwrap();
    use bulkhead_engine::geometry::{Chunk, Region};
    use bulkhead_engine::ids::{Epoch, Tick};
    image.superblock.durable = Tick::new(Epoch(2), 0);
    image.intent.set(Region(3), true);
    image.stamps.set(Chunk(0), Tick::new(Epoch(1), 4));
    image.stamps.set(Chunk(1), Tick::new(Epoch(2), 4));
    image.stamps.set(Chunk(2), Tick::SUSPECT);
    fs::write(dir.join(META_FILE), image.encode().unwrap()).unwrap();
    let seen = disk::inspect(&dir).unwrap();
    assert_eq!((seen.regions_set, seen.regions), (1, 16));
    assert_eq!(
        (seen.chunks_written, seen.chunks_unsettled, seen.chunks_suspect),
        (3, 2, 1)
    );
    assert_eq!(seen.newest_stamp, Tick::new(Epoch(2), 4));
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_failed_replica_is_accepted_by_an_explicit_word_only() {
    use bulkhead_engine::format::{FailCause, Superblock};
    let pool = TempDir::new().unwrap();
    let dir = pool.path().join("v");
    create(&dir, 3);
    let before = disk::inspect(&dir).unwrap();
    assert!(before.modified.elapsed().unwrap() < std::time::Duration::from_secs(60));
    assert_eq!(
        disk::accept_failed(&dir, &identity(3)).unwrap(),
        None,
        "nothing had failed"
    );
    assert_eq!(disk::inspect(&dir).unwrap().superblock, before.superblock);

    let failed = Superblock {
        sequence: before.superblock.sequence + 2,
        failed: Some(FailCause::Sync),
        whole: false,
        clean: false,
        ..before.superblock
    };
    let meta = fs::File::options().write(true).open(dir.join(META_FILE)).unwrap();
    meta.write_all_at(&failed.encode(), MetaLayout::slot_offset(failed.sequence))
        .unwrap();
    assert!(matches!(
        disk::accept_failed(&dir, &identity(4)),
        Err(DiskError::Foreign { .. })
    ));
    let held = open(&dir, 3).unwrap();
    assert!(matches!(
        disk::accept_failed(&dir, &identity(3)),
        Err(DiskError::InUse(_))
    ));
    drop(held);
    assert_eq!(
        disk::accept_failed(&dir, &identity(3)).unwrap(),
        Some(FailCause::Sync)
    );
    let after = disk::inspect(&dir).unwrap();
    assert!(after.both_slots_valid);
    assert_eq!(
        after.superblock,
        Superblock {
            sequence: failed.sequence + 1,
            failed: None,
            ..failed
        }
    );
    assert_eq!(disk::accept_failed(&dir, &identity(3)).unwrap(), None);
}
