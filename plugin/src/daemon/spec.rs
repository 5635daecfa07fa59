//! From what a person asked for to what a volume is to be: the class fills what was not said, then the defaults.

use std::sync::Arc;

use bulkhead_cluster::classes::{ClassError, Classes};
use bulkhead_cluster::schema::{ClassRecord, Fs, VolumeSpec};
use bulkhead_cluster::store::Store;
use bulkhead_engine::host::{FsKind, MkfsSpec, MountOptions};

use super::classes::{class_failed, no_such_class};
use crate::options::{VolumeRequest, format_size, smallest};
use crate::service::ServiceError;

/// Size of a volume for which nobody said one.
const DEFAULT_SIZE: u64 = 1 << 30;

/// Makes a spec, and checks what can be checked before anything is made.
pub(super) async fn of_request(
    store: &Arc<dyn Store>,
    name: &str,
    request: &VolumeRequest,
) -> Result<VolumeSpec, ServiceError> {
    let class = class_of(store, request.class.as_deref()).await?;
    let spec = fill(request, class.as_ref());
    check(&format!("volume {name:?}"), &spec)?;
    Ok(spec)
}

/// Whether volumes can be made of a class as it is, with nothing else said.
pub(super) fn check_class(class: &ClassRecord) -> Result<(), ServiceError> {
    check(
        &format!("storage class {:?}", class.name),
        &fill(&VolumeRequest::default(), Some(class)),
    )
}

async fn class_of(store: &Arc<dyn Store>, asked: Option<&str>) -> Result<Option<ClassRecord>, ServiceError> {
    let classes = Classes::new(store.clone());
    classes.for_volume(asked).await.map_err(|error| match error {
        ClassError::NoSuch { name, known } => {
            ServiceError::Invalid(format!("option class={name:?}: {}", no_such_class(&name, &known)))
        }
        ClassError::Store(_) => class_failed(&error),
        error => ServiceError::Invalid(error.to_string()),
    })
}

fn fill(request: &VolumeRequest, class: Option<&ClassRecord>) -> VolumeSpec {
    let mut spec = VolumeSpec::new(request.size.or_else(|| class?.size).unwrap_or(DEFAULT_SIZE));
    spec.repl = request.repl.or_else(|| class?.repl).unwrap_or(1);
    spec.fs = request.fs.or_else(|| class?.fs).unwrap_or_default();
    spec.io_priority = request.io_priority.or_else(|| class?.io_priority);
    spec.class = class.map(|class| class.name.clone());
    spec.nodes = request.nodes.clone();
    spec.labels = class.map(|class| class.labels.clone()).unwrap_or_default();
    spec.labels.extend(request.labels.clone());
    spec.mount_options = text(
        &request.mount_options,
        class.and_then(|class| class.mount_options.as_ref()),
    );
    spec.mkfs_options = text(
        &request.mkfs_options,
        class.and_then(|class| class.mkfs_options.as_ref()),
    );
    spec
}

fn text(asked: &Option<String>, class: Option<&String>) -> String {
    asked.as_ref().or(class).cloned().unwrap_or_default()
}

fn check(what: &str, spec: &VolumeSpec) -> Result<(), ServiceError> {
    let invalid = |why: String| ServiceError::Invalid(format!("{what}: {why}"));
    if spec.size < smallest(spec.fs) {
        return Err(invalid(format!(
            "{} needs a volume of at least {}, and {} was asked for",
            spec.fs,
            format_size(smallest(spec.fs)),
            format_size(spec.size)
        )));
    }
    mkfs(spec)
        .validate()
        .map_err(|error| invalid(error.to_string()))?;
    MountOptions::parse(kind(spec.fs), &spec.mount_options).map_err(|error| invalid(error.to_string()))?;
    Ok(())
}

/// How its file system is made, on a volume that nobody has ever had.
pub(super) fn mkfs(spec: &VolumeSpec) -> MkfsSpec {
    MkfsSpec {
        fs: kind(spec.fs),
        options: spec.mkfs_options.clone(),
        pristine: true,
        overwrite: false,
    }
}

/// The engine's word for a file system.
pub(super) fn kind(fs: Fs) -> FsKind {
    match fs {
        Fs::Ext4 => FsKind::Ext4,
        Fs::Xfs => FsKind::Xfs,
        Fs::Btrfs => FsKind::Btrfs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parse;
    use bulkhead_cluster::schema::IoPriority;

    #[test]
    fn the_class_fills_what_was_not_said() -> Result<(), crate::options::OptionErrors> {
        let mut class = ClassRecord::new("gold");
        class.repl = Some(2);
        class.io_priority = Some(IoPriority::High);
        class.labels.insert("tier".to_owned(), "gold".to_owned());
        let spec = fill(
            &parse([("size", "5G"), ("labels", "app=x"), ("repl", "3")])?,
            Some(&class),
        );
        assert_eq!(
            (spec.size, spec.repl, spec.io_priority),
            (5 << 30, 3, Some(IoPriority::High))
        );
        assert_eq!(spec.labels.len(), 2);
        assert_eq!(spec.class.as_deref(), Some("gold"));
        let plain = fill(&parse([])?, None);
        assert_eq!((plain.size, plain.repl, plain.fs), (DEFAULT_SIZE, 1, Fs::Ext4));
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() -> Result<(), crate::options::OptionErrors> {
        for (options, part) in [
            (vec![("fs", "xfs"), ("size", "100M")], "at least 300 MiB"),
            (vec![("mount_options", "frobnicate")], "frobnicate"),
            (vec![("mkfs_options", "-Z 3")], "-Z"),
        ] {
            let mut request = parse([])?;
            for (key, value) in options {
                match key {
                    "fs" => request.fs = value.parse().ok(),
                    "size" => request.size = Some(100 << 20),
                    "mount_options" => request.mount_options = Some(value.to_owned()),
                    _ => request.mkfs_options = Some(value.to_owned()),
                }
            }
            let refused = check("v", &fill(&request, None))
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(refused.contains(part), "{refused}");
        }
        Ok(())
    }
}
