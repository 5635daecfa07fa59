//! Deletes several things of one kind, one after the other.

use serde_json::json;

use super::client::Client;
use super::print::Printer;
use super::progress::waiting;
use super::{CliError, Code};
use crate::api::encode;

/// Deletes what has these names below a path. One that cannot be deleted does not keep the others; the first failure is
/// the command's.
pub(super) async fn delete_all(
    client: &Client,
    printer: &Printer,
    what: &str,
    path: &str,
    names: &[String],
) -> Result<Code, CliError> {
    let mut code = Code::Ok;
    let mut deleted = Vec::new();
    for name in names {
        let doing = format!("deleting {what} {name}");
        match waiting(&doing, client.delete(&format!("{path}/{}", encode(name)))).await {
            Ok(()) => deleted.push(name.clone()),
            Err(error) => {
                printer.error(&error);
                if code == Code::Ok {
                    code = error.code();
                }
            }
        }
    }
    printer.value(&json!({ "deleted": deleted }), |_| {
        deleted
            .iter()
            .map(|name| format!("{what} {name} is deleted\n"))
            .collect()
    })?;
    Ok(code)
}
