//! `bulkhead cluster rebalance`: replicas move from fuller to emptier pools.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::args::RebalanceArgs;
use super::client::Client;
use super::print::{Printer, table};
use super::progress::{Progress, waiting};
use super::{CliError, Code};
use crate::options::format_size;
use crate::service::{MoveView, RebalanceRequest, RebalanceView};

const PATH: &str = "/cluster/rebalance";
/// Between looks at how far it is.
const PAUSE: Duration = Duration::from_secs(1);
/// So long nothing may be able to go on before it is left to itself.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(client: &Client, printer: &Printer, args: &RebalanceArgs) -> Result<Code, CliError> {
    if args.stop {
        client.delete(PATH).await?;
        let view: RebalanceView = client.get(PATH).await?;
        printer.value(&view, stopped)?;
        return Ok(Code::Ok);
    }
    let request = RebalanceRequest {
        dry_run: args.dry_run,
        limit: args.limit,
    };
    let mut view: RebalanceView = waiting("planning", client.post(PATH, &request)).await?;
    let planned = view.moves.len();
    if args.dry_run || args.no_wait || planned == 0 {
        printer.value(&view, |view| plan(view, args.dry_run))?;
        return Ok(Code::Ok);
    }
    let mut progress = Progress::new();
    let mut stuck = Instant::now();
    loop {
        let after = view.after;
        view = client.get(PATH).await?;
        let left = view.moves.len();
        if left == 0 {
            drop(progress);
            let done = RebalanceView { after, ..view };
            printer.value(&done, |view| {
                format!("{} moved; {}\n", replicas(planned), spread("now", view.before))
            })?;
            return Ok(Code::Ok);
        }
        if view.moves.iter().any(|one| one.trouble.is_none()) {
            stuck = Instant::now();
        }
        if stuck.elapsed() >= PATIENCE {
            drop(progress);
            printer.value(&view, |view| {
                format!(
                    "{} cannot be moved now; they are as soon as they can, and `bulkhead cluster rebalance --stop` calls it off\n{}",
                    replicas(left),
                    moves_table(&view.moves)
                )
            })?;
            return Ok(Code::Unhealthy);
        }
        progress.show(&format!("moving replicas: {left} of {planned} left"));
        sleep(PAUSE).await;
    }
}

fn replicas(count: usize) -> String {
    format!("{count} replica{}", if count == 1 { "" } else { "s" })
}

fn spread(when: &str, spread: crate::service::SpreadView) -> String {
    format!(
        "{when}, pools are between {:.1} and {:.1} of 100 promised",
        spread.emptiest, spread.fullest
    )
}

fn plan(view: &RebalanceView, dry_run: bool) -> String {
    if view.moves.is_empty() {
        return format!("nothing is to be moved: {}\n", spread("now", view.before));
    }
    let bytes = view
        .moves
        .iter()
        .fold(0_u64, |bytes, one| bytes.saturating_add(one.size));
    let verb = if dry_run { "would be" } else { "are being" };
    let after = view
        .after
        .map(|after| format!("; {}", spread("afterwards", after)))
        .unwrap_or_default();
    format!(
        "{} {verb} moved, at most {} to copy\n{}{after}\n{}",
        replicas(view.moves.len()),
        format_size(bytes),
        spread("now", view.before),
        moves_table(&view.moves)
    )
}

fn stopped(view: &RebalanceView) -> String {
    if view.moves.is_empty() {
        return "no replica is being moved any more\n".to_owned();
    }
    format!(
        "{} under way, and moved to the end:\n{}",
        replicas(view.moves.len()),
        moves_table(&view.moves)
    )
}

fn moves_table(moves: &[MoveView]) -> String {
    let rows: Vec<_> = moves
        .iter()
        .map(|one| {
            let state = match (&one.trouble, one.begun) {
                (Some(trouble), _) => trouble.clone(),
                (None, true) => "being copied".to_owned(),
                (None, false) => "-".to_owned(),
            };
            [
                one.volume.clone(),
                one.from.clone(),
                one.to.clone(),
                format_size(one.size),
                state,
            ]
        })
        .collect();
    table(["VOLUME", "FROM", "TO", "AT MOST", "STATE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::SpreadView;

    #[test]
    fn a_plan_says_what_it_costs_and_what_comes_of_it() {
        let one = MoveView {
            volume: "v".to_owned(),
            size: 1 << 30,
            from: "n1".to_owned(),
            from_pool: "p1".to_owned(),
            to: "n4".to_owned(),
            to_pool: "p4".to_owned(),
            begun: false,
            trouble: None,
        };
        let at = |emptiest, fullest| SpreadView { emptiest, fullest };
        let mut view = RebalanceView {
            moves: vec![one.clone(), one],
            before: at(0.0, 40.0),
            after: Some(at(19.5, 21.0)),
        };
        let text = plan(&view, true);
        for part in [
            "2 replicas would be moved, at most 2 GiB to copy",
            "now, pools are between 0.0 and 40.0 of 100 promised; afterwards, pools are between 19.5 and 21.0",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        view.moves[0].trouble = Some("node n4 or its pool is away".to_owned());
        view.moves[1].begun = true;
        let text = stopped(&view);
        assert!(
            text.contains("pool is away") && text.contains("being copied"),
            "{text}"
        );
        view.moves.clear();
        assert!(plan(&view, false).starts_with("nothing is to be moved: now, pools are"));
    }
}
