//! Storage classes as the faces ask for them. Reads from this node's copy of the records, changes in the store; decides
//! only whether volumes could be made of a class at all.

use std::sync::Arc;

use bulkhead_cluster::catalogue::Contents;
use bulkhead_cluster::classes::{ClassError, Classes};
use bulkhead_cluster::schema::{ClassRecord, SchemaError};

use super::context::Daemon;
use super::spec;
use crate::nearest::no_such;
use crate::options::parse;
use crate::service::{ClassRequest, ClassView, ServiceError};

impl Daemon {
    fn store_classes(&self) -> Classes {
        Classes::new(self.store.clone())
    }

    /// All classes, by name.
    pub(super) fn class_views(&self) -> Vec<ClassView> {
        self.catalogue
            .read(|contents| contents.classes().map(|class| view(contents, class)).collect())
    }

    /// The class of a name. That there is none is asked of the store, because another node may just have made one.
    pub(super) async fn class_view(&self, name: &str) -> Result<ClassView, ServiceError> {
        let found = self
            .catalogue
            .read(|contents| named(contents, name).map(|class| view(contents, class)));
        if let Some(found) = found {
            return Ok(found);
        }
        let class = self.store_classes().for_volume(Some(name)).await;
        match class.map_err(|error| class_failed(&error))? {
            Some(class) => Ok(self.catalogue.read(|contents| view(contents, &class))),
            None => Err(ServiceError::NoSuch(no_such_class(name, &[]))),
        }
    }

    /// Makes a class.
    pub(super) async fn make_class(&self, request: &ClassRequest) -> Result<ClassView, ServiceError> {
        let class = of_request(request)?;
        self.store_classes()
            .create(&class, request.default)
            .await
            .map_err(|error| class_failed(&error))?;
        tracing::info!(
            class = class.name,
            default = request.default,
            "storage class created"
        );
        self.until_known(|contents| {
            let default = contents.default_class() == Some(&class.name);
            named(contents, &class.name).is_some() && (default || !request.default)
        })
        .await;
        self.class_view(&class.name).await
    }

    /// Deletes a class.
    pub(super) async fn drop_class(&self, name: &str) -> Result<(), ServiceError> {
        let deleted = self.store_classes().delete(name).await;
        deleted.map_err(|error| class_failed(&error))?;
        tracing::info!(class = name, "storage class deleted");
        self.until_known(|contents| named(contents, name).is_none()).await;
        Ok(())
    }

    /// Chooses the class of volumes that name none.
    pub(super) async fn choose_default_class(&self, name: Option<&str>) -> Result<(), ServiceError> {
        let classes = self.store_classes();
        let chosen = match name {
            Some(name) => classes.set_default(name).await,
            None => classes.clear_default().await,
        };
        chosen.map_err(|error| class_failed(&error))?;
        tracing::info!(class = name, "default storage class chosen");
        self.until_known(|contents| contents.default_class() == name)
            .await;
        Ok(())
    }
}

fn named<'a>(contents: &'a Contents, name: &str) -> Option<&'a ClassRecord> {
    contents.classes().find(|class| class.name == name)
}

/// The record that a person asks for.
fn of_request(request: &ClassRequest) -> Result<ClassRecord, ServiceError> {
    let invalid = |error: &dyn std::fmt::Display| {
        ServiceError::Invalid(format!("storage class {:?}: {error}", request.name))
    };
    // As `class=` of a volume it has to be understood too.
    parse([("class", request.name.as_str())]).map_err(|errors| invalid(&errors))?;
    let options = request
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let wanted = parse(options).map_err(|errors| invalid(&errors))?;
    if wanted.class.is_some() || !wanted.nodes.is_empty() {
        return Err(invalid(
            &"class and nodes are for a volume to say, not for a class; leave them out",
        ));
    }
    let class = ClassRecord {
        repl: wanted.repl,
        size: wanted.size,
        fs: wanted.fs,
        io_priority: wanted.io_priority,
        mount_options: wanted.mount_options,
        mkfs_options: wanted.mkfs_options,
        labels: wanted.labels,
        ..ClassRecord::new(&request.name)
    };
    spec::check_class(&class)?;
    Ok(class)
}

fn view(contents: &Contents, class: &ClassRecord) -> ClassView {
    let made_with_it = |volume: &&Arc<bulkhead_cluster::volumes::Volume>| {
        volume.spec.class.as_deref() == Some(class.name.as_str())
    };
    ClassView {
        name: class.name.clone(),
        default: contents.default_class() == Some(&class.name),
        repl: class.repl,
        size: class.size,
        fs: class.fs.map(|fs| fs.to_string()),
        io_priority: class.io_priority.map(|priority| priority.to_string()),
        mount_options: class.mount_options.clone(),
        mkfs_options: class.mkfs_options.clone(),
        labels: class.labels.clone(),
        created_at: class.created_at.into(),
        volumes: contents.named().filter(made_with_it).count(),
    }
}

/// "No such class", with the one that may have been meant.
pub(super) fn no_such_class(name: &str, known: &[String]) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    no_such("storage class", name, &known, "bulkhead class list")
}

/// What an error about classes means to the caller.
pub(super) fn class_failed(error: &ClassError) -> ServiceError {
    match error {
        ClassError::NoSuch { name, known } => ServiceError::NoSuch(no_such_class(name, known)),
        ClassError::Exists(_) => ServiceError::Conflict(error.to_string()),
        ClassError::Default(_) | ClassError::Busy(_) => ServiceError::Busy(error.to_string()),
        ClassError::Store(error) => {
            ServiceError::Unavailable(format!("the storage classes cannot be reached: {error}"))
        }
        ClassError::Schema(error @ SchemaError::Name { .. }) => ServiceError::Invalid(error.to_string()),
        ClassError::Schema(error) => ServiceError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cluster::schema::Fs;

    fn request(options: &[(&str, &str)]) -> ClassRequest {
        ClassRequest {
            name: "gold".to_owned(),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            default: false,
        }
    }

    #[test]
    fn a_class_takes_the_options_of_a_volume() {
        let class = of_request(&request(&[("repl", "2"), ("fs", "xfs"), ("labels", "tier=gold")]));
        let class = class.expect("it is sound");
        assert_eq!((class.repl, class.fs, class.size), (Some(2), Some(Fs::Xfs), None));
        assert_eq!(class.labels["tier"], "gold");
    }

    #[test]
    fn what_no_volume_could_be_made_of_is_refused() {
        for (options, part) in [
            (vec![("fs", "xfs"), ("size", "100M")], "at least 300 MiB"),
            (vec![("repl", "0")], "1 to 8"),
            (vec![("class", "other")], "leave them out"),
            (vec![("nodes", "n1")], "leave them out"),
            (vec![("sise", "1G")], "did you mean \"size\""),
            (vec![("mount_options", "frobnicate")], "frobnicate"),
        ] {
            let refused = of_request(&request(&options))
                .expect_err("it is refused")
                .to_string();
            assert!(
                refused.contains(part) && refused.contains("\"gold\""),
                "{options:?}: {refused}"
            );
        }
        let odd = ClassRequest {
            name: "a/b".to_owned(),
            ..request(&[])
        };
        assert!(matches!(of_request(&odd), Err(ServiceError::Invalid(_))));
    }
}
