//! `bulkhead class`.

use serde_json::json;

use super::args::{ClassCommand, CreateClassArgs};
use super::client::Client;
use super::delete::delete_all;
use super::print::{Lines, Printer, moment, table};
use super::progress::waiting;
use super::watch::show;
use super::{CliError, Code};
use crate::api::encode;
use crate::options::{format_size, parse};
use crate::service::{ClassRequest, ClassView, DefaultClass, Done};

pub(super) async fn run(client: &Client, printer: &Printer, command: ClassCommand) -> Result<Code, CliError> {
    match command {
        ClassCommand::Create(args) => create(client, printer, args).await,
        ClassCommand::List(watch) => {
            let look = async || client.get::<Vec<ClassView>>("/classes").await;
            show(printer, &watch, look, |classes| list(classes)).await?;
            Ok(Code::Ok)
        }
        ClassCommand::Inspect { names } => {
            let mut classes: Vec<ClassView> = Vec::new();
            for name in &names {
                classes.push(client.get(&format!("/classes/{}", encode(name))).await?);
            }
            printer.value(&classes, |classes| {
                classes.iter().map(details).collect::<Vec<_>>().join("\n")
            })?;
            Ok(Code::Ok)
        }
        ClassCommand::Delete { names } => {
            delete_all(client, printer, "storage class", "/classes", &names).await
        }
        ClassCommand::Default { name, none } => default(client, printer, name, none).await,
    }
}

async fn create(client: &Client, printer: &Printer, args: CreateClassArgs) -> Result<Code, CliError> {
    let options = args.spec.options([]).map_err(CliError::Usage)?;
    // Checked here too: what is not understood needs no daemon to be refused.
    parse(options.iter().map(|(key, value)| (key.as_str(), value.as_str())))?;
    let request = ClassRequest {
        name: args.name,
        options,
        default: args.default,
    };
    let what = format!("creating storage class {}", request.name);
    let class: ClassView = waiting(&what, client.post("/classes", &request)).await?;
    printer.value(&class, |class| {
        let says = says(class);
        let says = if says.is_empty() {
            "nothing of its own".to_owned()
        } else {
            says
        };
        let default = if class.default {
            "; volumes without a class take it"
        } else {
            ""
        };
        format!("storage class {} is there: {says}{default}\n", class.name)
    })?;
    Ok(Code::Ok)
}

async fn default(
    client: &Client,
    printer: &Printer,
    name: Option<String>,
    none: bool,
) -> Result<Code, CliError> {
    if name.is_some() || none {
        let _: Done = client
            .put("/default-class", &DefaultClass { class: name.clone() })
            .await?;
    }
    let default: DefaultClass = client.get("/default-class").await?;
    printer.value(&json!({ "class": default.class }), |_| match &default.class {
        Some(class) => format!("volumes without a class take {class}\n"),
        None => "volumes without a class take none; `bulkhead class default NAME` chooses one\n".to_owned(),
    })?;
    Ok(Code::Ok)
}

/// What a class says, in the words of options.
fn says(class: &ClassView) -> String {
    let mut said = Vec::new();
    let mut say = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            said.push(format!("{key}={value}"));
        }
    };
    say("repl", class.repl.map(|repl| repl.to_string()));
    say("io_priority", class.io_priority.clone());
    say("size", class.size.map(format_size));
    say("fs", class.fs.clone());
    say("mount_options", class.mount_options.clone());
    say("mkfs_options", class.mkfs_options.clone());
    for (label, value) in &class.labels {
        say("label", Some(format!("{label}={value}")));
    }
    said.join(", ")
}

fn list(classes: &[ClassView]) -> String {
    if classes.is_empty() {
        return "there is no storage class yet; `bulkhead class create replicated --repl 2 --default` makes one\n"
            .to_owned();
    }
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = classes
        .iter()
        .map(|class| {
            [
                class.name.clone(),
                if class.default { "yes" } else { "-" }.to_owned(),
                or_dash(class.repl.map(|repl| repl.to_string())),
                or_dash(class.io_priority.clone()),
                or_dash(class.size.map(format_size)),
                or_dash(class.fs.clone()),
                class.volumes.to_string(),
            ]
        })
        .collect();
    let headings = ["NAME", "DEFAULT", "REPL", "IO_PRIORITY", "SIZE", "FS", "VOLUMES"];
    table(headings, &rows)
}

fn details(class: &ClassView) -> String {
    let mut lines = Lines::default();
    lines.line("Storage class", &class.name);
    let default = if class.default {
        "yes: volumes without a class take it"
    } else {
        "no"
    };
    lines.line("Default", default);
    lines.some("Replicas", class.repl.map(|repl| repl.to_string()));
    lines.some("IO priority", class.io_priority.as_ref());
    lines.some("Size", class.size.map(format_size));
    lines.some("File system", class.fs.as_ref());
    lines.some("Mount options", class.mount_options.as_ref());
    lines.some("mkfs options", class.mkfs_options.as_ref());
    lines.labels(&class.labels);
    lines.line("Volumes", class.volumes.to_string());
    lines.line("Created", moment(class.created_at));
    lines.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    #[test]
    fn a_class_says_what_it_says_and_nothing_else() {
        let class = ClassView {
            name: "gold".to_owned(),
            default: true,
            repl: Some(2),
            size: None,
            fs: Some("xfs".to_owned()),
            io_priority: Some("high".to_owned()),
            mount_options: None,
            mkfs_options: None,
            labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
            created_at: SystemTime::UNIX_EPOCH,
            volumes: 3,
        };
        assert_eq!(says(&class), "repl=2, io_priority=high, fs=xfs, label=tier=gold");
        let row = list(std::slice::from_ref(&class));
        let cells: Vec<&str> = row
            .lines()
            .nth(1)
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!(cells, ["gold", "yes", "2", "high", "-", "xfs", "3"]);
        let text = details(&class);
        assert!(
            text.contains("volumes without a class take it") && !text.contains("Size"),
            "{text}"
        );
        assert!(list(&[]).contains("bulkhead class create"));
    }
}
