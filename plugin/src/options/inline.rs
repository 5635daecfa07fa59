//! The name of a volume, and the whole spec written as one: `size=10G,repl=3,name=demo`. It is a spec only if `name=` is
//! in it. A value that itself needs commas is written with `#` in their place.

use super::{OptionError, OptionErrors, VolumeRequest, parse};

/// Longest name of a volume, in bytes.
const MAX_NAME: usize = 128;

/// A name that a volume can have: letters, digits, `_`, `.` and `-`, the first a letter or digit, as Docker has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeName(String);

impl VolumeName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, OptionError> {
        let mut bytes = name.bytes();
        let valid = name.len() <= MAX_NAME
            && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if valid {
            return Ok(Self(name.to_owned()));
        }
        let shown: String = name.chars().take(MAX_NAME).collect();
        let hint = if name.contains('=') {
            "; options in the name need name= among them, such as size=10G,name=demo"
        } else {
            ""
        };
        Err(OptionError::Name(format!(
            "{shown:?} cannot be the name of a volume: it has letters, digits, '_', '.' and '-', begins with a letter or digit, and has at most {MAX_NAME} of them{hint}"
        )))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a requested name means: a volume, and perhaps what it is meant to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineSpec {
    /// The volume's own name.
    pub name: VolumeName,
    /// Key and value of each option in the name.
    pub options: Vec<(String, String)>,
}

impl InlineSpec {
    /// Reads a name as Docker passes it on.
    pub fn parse(requested: &str) -> Result<Self, OptionErrors> {
        let is_spec = requested
            .split(',')
            .any(|part| part.trim_start().starts_with("name="));
        if !is_spec {
            let name = VolumeName::new(requested).map_err(|error| OptionErrors(vec![error]))?;
            return Ok(Self {
                name,
                options: Vec::new(),
            });
        }
        let mut names = Vec::new();
        let mut options = Vec::new();
        let mut errors = Vec::new();
        for part in requested.split(',').map(str::trim) {
            match part.split_once('=') {
                Some(("name", value)) => match VolumeName::new(value) {
                    Ok(name) => names.push(name),
                    Err(error) => errors.push(error),
                },
                Some((key, value)) => options.push((key.to_owned(), value.replace('#', ","))),
                None => errors.push(OptionError::Name(format!(
                    "{part:?} in the name has no '='; write size=10G,name=demo, with '#' for a comma inside a value"
                ))),
            }
        }
        names.dedup();
        match (names.pop(), names.is_empty(), errors.is_empty()) {
            (Some(name), true, true) => Ok(Self { name, options }),
            (Some(_), false, _) => Err(OptionErrors(vec![OptionError::Twice("name".to_owned())])),
            _ => Err(OptionErrors(errors)),
        }
    }

    /// The request that the name alone makes.
    pub fn request(&self) -> Result<VolumeRequest, OptionErrors> {
        self.request_with(std::iter::empty())
    }

    /// The request that the name and further options make together.
    pub fn request_with<'a>(
        &'a self,
        further: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<VolumeRequest, OptionErrors> {
        let inline = self
            .options
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        parse(inline.chain(further))
    }
}
