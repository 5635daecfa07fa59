//! Runs that are written by hand: what happens is known, and so is what has to come of it.

use bulkhead_engine::machine::primary::EndReason;
use bulkhead_sim::campaign::run;
use bulkhead_sim::plan::{Entry, MS, Mischief, Ns, Plan, SEC};
use bulkhead_sim::world::Outcome;

fn plan(replicas: usize, calm_at: Ns, entries: &[(Ns, Mischief)]) -> Plan {
    let entry = |&(at, what): &(Ns, Mischief)| Entry { at, what };
    Plan {
        nodes: replicas,
        replicas,
        added_at: None,
        keeper: false,
        calm_at,
        op_gap: 5 * MS,
        drift: 0,
        entries: entries.iter().map(entry).collect(),
        ..Plan::of(1)
    }
}

fn outcome(plan: &Plan) -> Outcome {
    let outcome = run(plan, false);
    assert_eq!(outcome.violation, None);
    outcome
}

const STORE_AWAY: Mischief = Mischief::StoreDown { time: 4500 * MS };

#[test]
fn with_the_store_away_the_loss_of_one_of_three_is_held_until_it_is_back() {
    let kill = Mischief::PowerCut {
        node: 2,
        down: 10 * SEC,
    };
    let run = outcome(&plan(3, 12 * SEC, &[(SEC, STORE_AWAY), (1200 * MS, kill)]));
    assert_eq!(
        run.ended,
        [],
        "P4, P5: the other member answers, so nobody is cut off"
    );
}

#[test]
fn with_the_store_away_a_refused_connection_shows_that_nobody_is_cut_off() {
    let kill = Mischief::Kill {
        node: 1,
        down: 10 * SEC,
    };
    let run = outcome(&plan(2, 12 * SEC, &[(SEC, STORE_AWAY), (1200 * MS, kill)]));
    assert!(run.ended.is_empty(), "L5: {:?}", run.ended);
}

#[test]
fn with_the_store_away_the_death_of_the_only_other_node_looks_like_isolation() {
    let cut = Mischief::PowerCut {
        node: 1,
        down: 10 * SEC,
    };
    let run = outcome(&plan(2, 12 * SEC, &[(SEC, STORE_AWAY), (1200 * MS, cut)]));
    assert_eq!(run.ended.first(), Some(&EndReason::Isolated), "L5");
}

#[test]
fn an_isolated_primary_ends_long_before_the_timeout_of_its_operations() {
    let isolate = Mischief::Isolate {
        node: 0,
        time: 9 * SEC,
    };
    let run = outcome(&plan(2, 12 * SEC, &[(SEC, isolate)]));
    assert_eq!(run.ended.first(), Some(&EndReason::Isolated), "L5");
}

#[test]
fn a_sole_member_here_goes_on_without_anybody() {
    let isolate = Mischief::Isolate {
        node: 0,
        time: 9 * SEC,
    };
    let run = outcome(&plan(1, 12 * SEC, &[(SEC, isolate)]));
    assert!(run.ended.is_empty(), "L5: {:?}", run.ended);
}

#[test]
fn a_rebuild_ends_under_users_that_leave_no_gap() {
    let kill = Mischief::Kill { node: 1, down: SEC };
    let restless = Plan {
        op_gap: MS / 16,
        ..plan(2, 2 * SEC, &[(300 * MS, kill)])
    };
    outcome(&restless);
}

/// The process at the volume dies and is back after 20 ms, and dies again, 12 times; users go on asking.
fn restless_process(replicas: usize) -> Plan {
    let restart = |turn: u64| {
        let down = 20 * MS;
        let (times, gap) = (3, 40 * MS);
        (SEC + turn * 1500 * MS, Mischief::Restart { down, times, gap })
    };
    let entries: Vec<_> = (0..4).map(restart).collect();
    Plan {
        keeper: true,
        op_gap: MS / 2,
        ..plan(replicas, 8 * SEC, &entries)
    }
}

#[test]
fn a_process_that_dies_again_and_again_fails_nothing() {
    for replicas in [1, 2, 3] {
        let run = outcome(&restless_process(replicas));
        assert_eq!(run.failed, 0, "{replicas} replicas");
        assert_eq!(run.ended, [], "{replicas} replicas");
        assert!(
            run.served > 4 && run.asked_again > 0,
            "{replicas} replicas: {run:?}"
        );
        assert!(
            run.longest_pause < 700 * MS,
            "T5: no lease is waited for, which takes a second: {replicas} replicas, {:?}",
            run.longest_pause
        );
    }
}

#[test]
fn without_a_keeper_what_was_asked_of_a_process_that_dies_fails() {
    let run = outcome(&Plan {
        keeper: false,
        ..restless_process(2)
    });
    assert!(run.failed > 0 && run.asked_again == 0, "{run:?}");
}

#[test]
fn a_node_that_is_cut_off_ends_what_it_holds_however_often_its_process_is_restarted() {
    let isolate = Mischief::Isolate {
        node: 0,
        time: 9 * SEC,
    };
    let restart = Mischief::Restart {
        down: 100 * MS,
        times: 20,
        gap: 200 * MS,
    };
    let cut_off = Plan {
        keeper: true,
        op_gap: MS / 2,
        ..plan(3, 12 * SEC, &[(SEC, isolate), (1100 * MS, restart)])
    };
    let run = outcome(&cut_off);
    assert!(run.failed > 0, "L5: {run:?}");
    assert!(
        run.longest_pause < 3 * SEC,
        "L5: what was left behind is not gone on with when the node is back: {run:?}"
    );
}

#[test]
fn what_another_node_has_taken_over_is_not_gone_on_with() {
    let away = Mischief::Restart {
        down: 1500 * MS,
        times: 1,
        gap: MS,
    };
    let elsewhere = Mischief::Move { node: 1, ask: false };
    let taken = Plan {
        keeper: true,
        op_gap: MS / 2,
        ..plan(3, 6 * SEC, &[(SEC, away), (1050 * MS, elsewhere)])
    };
    let run = outcome(&taken);
    assert!(run.failed > 0 && run.asked_again == 0, "T5: {run:?}");
}
