//! A replica's directory in a pool: created and removed as a whole, opened only by one and only as whom it is.
//!
//! A directory is built under another name and renamed when it is complete and on disk, and renamed away before it
//! is taken apart; so after a crash there is either a whole replica or none. Never changes a replica's content.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};

use super::DiskError;
use super::block_file::BlockFile;
use super::os_file::{Caching, Lock, OsFile};
use crate::format::{
    FormatError, MetaImage, MetaLayout, ReplicaIdentity, SUPERBLOCKS_LEN, Slots, Superblock,
};
use crate::geometry::Geometry;
use crate::ids::BootId;

/// Name of the file with the volume's content.
pub const DATA_FILE: &str = "data";
/// Name of the file with superblocks, intent and stamps.
pub const META_FILE: &str = "meta";

const CREATING: &str = ".creating";
const DELETING: &str = ".deleting";

/// The two open files of a replica, and what its metadata said when it was opened.
pub struct ReplicaFiles {
    /// The volume's content.
    pub data: Arc<dyn BlockFile>,
    /// The metadata.
    pub meta: Arc<dyn BlockFile>,
    /// The metadata, decoded and checked.
    pub image: MetaImage,
}

impl ReplicaFiles {
    /// Takes two open files as those of a replica: reads and checks the metadata. `path` is for messages.
    pub fn load(
        data: Arc<dyn BlockFile>,
        meta: Arc<dyn BlockFile>,
        expected: &ReplicaIdentity,
        path: &Path,
    ) -> Result<Self, DiskError> {
        let image = read_image(meta.as_ref(), path)?;
        let found = image.superblock.identity;
        if found != *expected {
            return Err(DiskError::Foreign {
                path: path.to_owned(),
                found: Box::new(found),
                expected: Box::new(*expected),
            });
        }
        let size = image.superblock.geometry.size();
        let len = data.len().map_err(DiskError::io("cannot look at", path))?;
        if len != size {
            return Err(DiskError::DataLength {
                path: path.to_owned(),
                found: len,
                expected: size,
            });
        }
        Ok(Self { data, meta, image })
    }
}

/// Reads and decodes a metadata file. The slots are read first: they say how long the rest is.
pub(super) fn read_image(meta: &dyn BlockFile, path: &Path) -> Result<MetaImage, DiskError> {
    let format = |source| DiskError::Format {
        path: path.to_owned(),
        source,
    };
    let read_failed = || DiskError::io("cannot read the metadata of", path);
    let found = meta.len().map_err(read_failed())?;
    let checked_len = |needed: u64| {
        if found < needed {
            return Err(format(FormatError::Short { found, needed }));
        }
        Ok(needed as usize)
    };
    let mut bytes = vec![0; checked_len(SUPERBLOCKS_LEN as u64)?];
    meta.read_at(&mut bytes, 0).map_err(read_failed())?;
    let slots = Slots::decode(&bytes).map_err(format)?;
    let layout = MetaLayout::new(&slots.newest.geometry).map_err(format)?;
    bytes.resize(checked_len(layout.file_len())?, 0);
    meta.read_at(&mut bytes, 0).map_err(read_failed())?;
    MetaImage::decode(&bytes).map_err(format)
}

/// Creates an empty replica in `dir`, which must not exist, in a directory that must. When it returns, all of it
/// is on disk. The metadata takes up its whole space, so that a full pool never stops a metadata write.
pub fn create(dir: &Path, identity: ReplicaIdentity, geometry: Geometry) -> Result<(), DiskError> {
    if dir.symlink_metadata().is_ok() {
        return Err(DiskError::Exists(dir.to_owned()));
    }
    let building = sibling(dir, CREATING)?;
    remove_tree(&building)?;
    let built = build(&building, identity, geometry).and_then(|()| {
        renameat2(
            nix::fcntl::AT_FDCWD,
            &building,
            nix::fcntl::AT_FDCWD,
            dir,
            RenameFlags::RENAME_NOREPLACE,
        )
        .map_err(|errno| match errno {
            Errno::EEXIST => DiskError::Exists(dir.to_owned()),
            errno => DiskError::io("cannot rename the new replica to", dir)(errno.into()),
        })
    });
    if let Err(error) = built {
        // Best effort: what is left has a name that the next sweep knows.
        let _ = fs::remove_dir_all(&building);
        return Err(error);
    }
    sync_dir(parent(dir)?)
}

fn build(dir: &Path, identity: ReplicaIdentity, geometry: Geometry) -> Result<(), DiskError> {
    let superblock = Superblock::fresh(identity, geometry, boot_id()?);
    let image = MetaImage::fresh(superblock)
        .encode()
        .map_err(|source| DiskError::Format {
            path: dir.to_owned(),
            source,
        })?;
    fs::create_dir(dir).map_err(DiskError::io("cannot create", dir))?;

    let data = dir.join(DATA_FILE);
    File::create_new(&data)
        .and_then(|file| {
            file.set_len(geometry.size())?;
            file.sync_all()
        })
        .map_err(DiskError::io("cannot create", &data))?;

    // Written, not only reserved: an extent that was never written would need a change of the file system's own
    // metadata, and with it a commit of its journal, at the first intent in each block.
    let meta = dir.join(META_FILE);
    File::create_new(&meta)
        .and_then(|mut file| {
            file.write_all(&image)?;
            file.sync_all()
        })
        .map_err(DiskError::io("cannot create", &meta))?;
    sync_dir(dir)
}

/// Opens the replica in `dir`, if it is the expected one and nobody else has it open.
pub fn open(dir: &Path, expected: &ReplicaIdentity, caching: Caching) -> Result<ReplicaFiles, DiskError> {
    let meta = open_file(dir, META_FILE, Caching::PageCache)?;
    if !meta
        .lock(Lock::Exclusive)
        .map_err(DiskError::io("cannot lock", dir))?
    {
        return Err(DiskError::InUse(dir.to_owned()));
    }
    // The lock may be on a file that was removed between the two calls.
    if !is_still_at(meta.file(), &dir.join(META_FILE)).map_err(DiskError::io("cannot look at", dir))? {
        return Err(DiskError::Missing(dir.to_owned()));
    }
    let data = open_file(dir, DATA_FILE, caching)?;
    ReplicaFiles::load(Arc::new(data), Arc::new(meta), expected, dir)
}

/// Removes the replica in `dir`, whoever it belongs to, and gives its space back; one in use is refused. Answers
/// whether there was one, so that a removal can be repeated.
pub fn delete(dir: &Path) -> Result<bool, DiskError> {
    let going = sibling(dir, DELETING)?;
    let locked = match open_file(dir, META_FILE, Caching::PageCache) {
        Ok(meta) => {
            if !meta
                .lock(Lock::Exclusive)
                .map_err(DiskError::io("cannot lock", dir))?
            {
                return Err(DiskError::InUse(dir.to_owned()));
            }
            Some(meta)
        }
        // No metadata: a damaged replica, or none.
        Err(DiskError::Missing(_)) => None,
        Err(error) => return Err(error),
    };
    remove_tree(&going)?;
    let existed = match fs::rename(dir, &going) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(DiskError::io("cannot rename", dir)(error)),
    };
    drop(locked);
    if existed {
        sync_dir(parent(dir)?)?;
        remove_tree(&going)?;
    }
    Ok(existed)
}

/// Removes what creations and removals left half-done in a directory of replicas when the daemon or the machine
/// died. To be called while none is running there. Answers how many it removed.
pub fn sweep(replicas: &Path) -> Result<usize, DiskError> {
    let unreadable = || DiskError::io("cannot list", replicas);
    let mut swept = 0;
    for entry in fs::read_dir(replicas).map_err(unreadable())? {
        let entry = entry.map_err(unreadable())?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && (name.ends_with(CREATING) || name.ends_with(DELETING)) {
            remove_tree(&entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// The running boot of the kernel.
pub fn boot_id() -> Result<BootId, DiskError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    fs::read_to_string(path)
        .and_then(|text| text.trim().parse().map_err(io::Error::other))
        .map_err(DiskError::io("cannot read the kernel's boot id from", path))
}

pub(super) fn open_file(dir: &Path, name: &str, caching: Caching) -> Result<OsFile, DiskError> {
    let path = dir.join(name);
    OsFile::open(&path, caching).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DiskError::Missing(dir.to_owned()),
        _ => DiskError::io("cannot open", &path)(error),
    })
}

fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((opened.dev(), opened.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `.<name><suffix>` beside `dir`.
fn sibling(dir: &Path, suffix: &str) -> Result<PathBuf, DiskError> {
    let name = dir.file_name().ok_or_else(|| no_name(dir))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(dir.with_file_name(hidden))
}

fn parent(dir: &Path) -> Result<&Path, DiskError> {
    dir.parent().ok_or_else(|| no_name(dir))
}

fn no_name(dir: &Path) -> DiskError {
    DiskError::io("cannot use as a replica's directory", dir)(io::ErrorKind::InvalidInput.into())
}

fn remove_tree(path: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_dir(parent(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::io("cannot remove", path)(error)),
    }
}

fn sync_dir(path: &Path) -> Result<(), DiskError> {
    // An empty path is what `parent` gives for a bare name.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(DiskError::io("cannot sync the directory", path))
}
