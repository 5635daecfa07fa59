//! `bulkhead pool`.

use std::time::Duration;

use tokio::time::sleep;

use super::args::PoolCommand;
use super::client::Client;
use super::print::{Printer, table};
use super::progress::{Progress, waiting};
use super::watch::show;
use super::{CliError, Code};
use crate::api::encode;
use crate::options::format_size;
use crate::service::{PoolRequest, PoolView, RemovalRequest, RemovalView};

/// Between looks at how far it is.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(client: &Client, printer: &Printer, command: PoolCommand) -> Result<Code, CliError> {
    match command {
        PoolCommand::Add {
            device,
            size,
            priority,
        } => {
            // The daemon has another working directory.
            let device = std::path::absolute(&device)
                .map_err(|error| CliError::Usage(format!("{}: {error}", device.display())))?;
            let what = format!("making a pool of {}", device.display());
            let request = PoolRequest {
                device,
                size,
                priority,
            };
            let pool: PoolView = waiting(&what, client.post("/pools", &request)).await?;
            printer.value(&pool, |pool| {
                format!(
                    "pool {} is ready: {} on {}, priority {}\n",
                    pool.id,
                    format_size(pool.capacity),
                    pool.device.display(),
                    pool.priority
                )
            })?;
        }
        PoolCommand::List(watch) => {
            let look = async || client.get::<Vec<PoolView>>("/pools").await;
            show(printer, &watch, look, |pools| {
                if pools.is_empty() {
                    "there is no pool yet; `bulkhead pool add /dev/DEVICE` makes one\n".to_owned()
                } else {
                    pools_table(pools)
                }
            })
            .await?;
        }
        PoolCommand::Remove {
            id,
            moving,
            dry_run,
            no_wait,
            undo,
        } => {
            let pools: Vec<PoolView> = client.get("/pools").await?;
            let id = find(&pools, &id)?;
            if undo {
                client.delete(&removal_path(id)).await?;
                printer.value(&serde_json::json!({ "kept": id }), |_| {
                    format!("pool {id} stays in use\n")
                })?;
            } else if moving {
                return remove_by_moving(client, printer, id, dry_run, no_wait).await;
            } else {
                let path = format!("/pools/{}", encode(id));
                waiting("removing the pool", client.delete(&path)).await?;
                removed(printer, id)?;
            }
        }
    }
    Ok(Code::Ok)
}

fn removal_path(id: &str) -> String {
    format!("/pools/{}/removal", encode(id))
}

fn removed(printer: &Printer, id: &str) -> Result<(), CliError> {
    printer.value(&serde_json::json!({ "removed": id }), |_| {
        format!("pool {id} is removed\n")
    })
}

/// Has the pool emptied. The daemon takes it out of use once it is; this only watches.
async fn remove_by_moving(
    client: &Client,
    printer: &Printer,
    id: &str,
    dry_run: bool,
    no_wait: bool,
) -> Result<Code, CliError> {
    let path = removal_path(id);
    let request = RemovalRequest { dry_run };
    let mut view: RemovalView = waiting("having the pool emptied", client.put(&path, &request)).await?;
    if !dry_run && !no_wait {
        let mut progress = Progress::new();
        // What waits for somebody is not waited for: it is said, and the rest goes on by itself.
        while view.moving > 0 {
            progress.show(&format!("emptying the pool: {} left", view.left.len()));
            sleep(PAUSE).await;
            match client.get(&path).await {
                Ok(now) => view = now,
                Err(error) if error.code() == Code::NotFound => {
                    return removed(printer, id).map(|()| Code::Ok);
                }
                Err(error) => return Err(error),
            }
        }
        if view.left.is_empty() {
            // Of the two the daemon may have been first.
            match client.delete(&format!("/pools/{}", encode(id))).await {
                Err(error) if error.code() != Code::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            return removed(printer, id).map(|()| Code::Ok);
        }
    }
    printer.value(&view, |view| emptied(view, dry_run))?;
    Ok(if view.left.is_empty() || dry_run || no_wait {
        Code::Ok
    } else {
        Code::Unhealthy
    })
}

fn emptied(view: &RemovalView, dry_run: bool) -> String {
    let id = &view.pool;
    let left: String = view.left.iter().map(|left| format!("  {left}\n")).collect();
    match (dry_run, view.left.len()) {
        (true, 0) => format!("pool {id} has nothing that would have to be moved\n"),
        (true, count) => format!("pool {id} has {count} replicas that would have to be moved:\n{left}"),
        (false, 0) => format!("pool {id} is empty and goes out of use\n"),
        (false, count) => format!(
            "pool {id} takes nothing new and goes out of use once it is empty; {count} replicas are left in it:\n{left}`bulkhead pool remove {id} --undo` calls it off\n"
        ),
    }
}

/// The one pool that is meant: by its id, the beginning of it, or its device.
fn find<'a>(pools: &'a [PoolView], meant: &str) -> Result<&'a str, CliError> {
    let device = std::path::absolute(meant).unwrap_or_default();
    let mut fitting = pools
        .iter()
        .filter(|pool| !meant.is_empty() && (pool.id.starts_with(meant) || pool.device == device));
    match (fitting.next(), fitting.next()) {
        (Some(pool), None) => Ok(&pool.id),
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "several pools begin with {meant:?}; write more of the id that `bulkhead pool list` shows"
        ))),
        (None, _) => Err(CliError::Daemon(crate::api::ErrorDetail {
            code: crate::api::ErrorCode::NotFound,
            message: format!(
                "there is no pool {meant:?} on this node; `bulkhead pool list` shows those that exist"
            ),
        })),
    }
}

/// Pools as a table.
pub(super) fn pools_table(pools: &[PoolView]) -> String {
    let rows: Vec<_> = pools
        .iter()
        .map(|pool| {
            [
                pool.id.clone(),
                pool.device.display().to_string(),
                pool.medium.clone(),
                pool.priority.clone(),
                format_size(pool.capacity),
                format_size(pool.promised),
                format_size(pool.used),
                format_size(pool.free),
                pool.replicas.to_string(),
                pool.status.clone(),
            ]
        })
        .collect();
    let headings = [
        "ID", "DEVICE", "MEDIUM", "PRIORITY", "CAPACITY", "PROMISED", "USED", "FREE", "REPLICAS", "STATUS",
    ];
    table(headings, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_found_by_what_is_unique() {
        let pool = |id: &str, device: &str| PoolView {
            id: id.to_owned(),
            device: device.into(),
            medium: String::new(),
            priority: String::new(),
            capacity: 0,
            promised: 0,
            used: 0,
            free: 0,
            replicas: 0,
            healthy: true,
            status: String::new(),
        };
        let pools = [pool("abc1", "/dev/x"), pool("abd2", "/dev/y")];
        assert_eq!(find(&pools, "abc").ok(), Some("abc1"));
        assert_eq!(find(&pools, "/dev/y").ok(), Some("abd2"));
        assert_eq!(
            find(&pools, "ab").err().map(|error| error.code()),
            Some(Code::Usage)
        );
        assert_eq!(
            find(&pools, "").err().map(|error| error.code()),
            Some(Code::NotFound)
        );
        assert_eq!(
            find(&pools, "zz").err().map(|error| error.code()),
            Some(Code::NotFound)
        );
    }
}
