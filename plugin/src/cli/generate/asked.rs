//! The same for other faces: the flags as data, and the text for flags that come as data. Both are made from the arguments of the
//! command line, so neither can say anything else. Writes no files, whatever is asked for.

use clap::{ArgAction, CommandFactory, Parser};

use super::text;
use crate::cli::args::GenerateCommand;
use crate::config::{flag, settings};
use crate::service::{FlagView, FormView, GenerateRequest, ServiceError};

/// It would write on the machine that is asked.
const DIRECTORY: &str = "directory";

#[derive(Parser)]
#[command(
    no_binary_name = true,
    disable_help_flag = true,
    disable_help_subcommand = true
)]
struct Asked {
    #[command(subcommand)]
    command: GenerateCommand,
}

/// All forms and their flags, in the order of the command line.
pub(crate) fn forms() -> Vec<FormView> {
    let settings: Vec<String> = settings().into_keys().map(|key| flag(&key)).collect();
    let command = Asked::command();
    let forms = command.get_subcommands().map(|form| FormView {
        form: form.get_name().to_owned(),
        about: form.get_about().map(ToString::to_string).unwrap_or_default(),
        flags: form
            .get_arguments()
            .filter_map(|argument| {
                let name = argument.get_long().filter(|name| *name != DIRECTORY)?;
                Some(FlagView {
                    name: name.to_owned(),
                    help: argument.get_help().map(ToString::to_string).unwrap_or_default(),
                    value: argument
                        .get_value_names()
                        .and_then(|names| names.first())
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    required: argument.is_required_set(),
                    repeated: matches!(argument.get_action(), ArgAction::Append),
                    secret: ["password", "token"].iter().any(|end| name.ends_with(end)),
                    setting: settings.iter().any(|setting| setting == name),
                })
            })
            .collect(),
    });
    forms.collect()
}

/// What `bulkhead generate` prints for these flags.
pub(crate) fn generated(request: &GenerateRequest) -> Result<String, ServiceError> {
    let invalid = |message: String| Err(ServiceError::Invalid(message));
    let Some(form) = forms().into_iter().find(|form| form.form == request.form) else {
        return invalid(format!(
            "{:?} cannot be generated; choose script, unit, plugin or stack",
            request.form
        ));
    };
    let mut words = vec![form.form];
    for (name, values) in &request.flags {
        if !form.flags.iter().any(|flag| flag.name == *name) {
            return invalid(format!("{} has no flag --{name}", request.form));
        }
        // In one word each, so that no value is taken for a flag.
        words.extend(values.iter().map(|value| format!("--{name}={value}")));
    }
    match Asked::try_parse_from(words) {
        Ok(asked) => text(asked.command).map_err(|error| ServiceError::Invalid(error.to_string())),
        Err(error) => {
            let said = error.to_string();
            let first = said.split("\n\n").next().unwrap_or_default();
            invalid(first.trim_start_matches("error: ").trim().replace("\n ", ""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(form: &str, flags: &[(&str, &str)]) -> GenerateRequest {
        let mut request = GenerateRequest {
            form: form.to_owned(),
            ..GenerateRequest::default()
        };
        for (name, value) in flags {
            let values = request.flags.entry((*name).to_owned()).or_default();
            values.push((*value).to_owned());
        }
        request
    }

    #[test]
    fn every_form_is_offered_with_its_flags() {
        let forms = forms();
        let names: Vec<&str> = forms.iter().map(|form| form.form.as_str()).collect();
        assert_eq!(names, ["script", "unit", "plugin", "stack"]);
        for form in &forms {
            let flag = |name: &str| form.flags.iter().find(|flag| flag.name == name);
            let pool = flag("pool").expect("a pool");
            assert!(pool.repeated && !pool.setting && !pool.required && !pool.help.is_empty());
            assert!(flag("store").is_some_and(|flag| flag.setting && !flag.repeated));
            assert!(flag("store-password").is_some_and(|flag| flag.secret));
            assert!(flag("directory").is_none() && flag("help").is_none());
            let image = ["plugin", "stack"].contains(&form.form.as_str());
            assert_eq!(flag("image").is_some_and(|flag| flag.required), image);
        }
    }

    #[test]
    fn flags_as_data_say_what_they_say_on_the_command_line() {
        let flags = [
            ("store", "etcd://h1:2379"),
            ("cluster", "shop"),
            ("pool", "/dev/nvme1n1"),
            ("pool", "/var/lib/bulkhead/p.img=5G"),
        ];
        let text = generated(&request("script", &flags)).expect("a script");
        for part in ["cluster shop", "pool /dev/nvme1n1", "--size 5G"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let odd = generated(&request("script", &[("cluster", "--yes")]));
        assert!(!odd.is_ok_and(|text| text.contains(" --yes ")));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (form, flags, part) in [
            ("poem", &[][..], "choose script"),
            ("unit", &[("directory", "/etc")][..], "no flag --directory"),
            ("unit", &[("pool", "relative")][..], "begins with /"),
            ("plugin", &[][..], "--image"),
            ("script", &[("store", "gopher://x")][..], "store"),
            ("script", &[("cluster", "a"), ("cluster", "b")][..], "cluster"),
        ] {
            let Err(ServiceError::Invalid(message)) = generated(&request(form, flags)) else {
                panic!("{form} {flags:?} is taken");
            };
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
