//! The checker itself: each promise broken by hand is noticed.

use bulkhead_engine::machine::primary::OpId;

use super::{Checker, Doing};

fn write(checker: &mut Checker, op: u64, term: u32, value: u64) {
    let sectors = vec![0];
    checker.submitted(OpId(op), term, Doing::Write { sectors, value });
}

fn read(checker: &mut Checker, op: u64, term: u32, value: u64) -> Result<(), String> {
    let sectors = vec![(0, 0)];
    checker.submitted(OpId(op), term, Doing::Read { sectors });
    checker.read(OpId(op), |_| value)
}

fn written() -> Checker {
    let mut checker = Checker::new(1);
    checker.serving(1, true, &[], |_| 0).unwrap();
    write(&mut checker, 1, 1, 11);
    checker.acknowledged(OpId(1)).unwrap();
    checker
}

#[test]
fn an_acknowledged_write_may_not_be_missing_while_a_member_kept_power() {
    assert!(written().serving(2, true, &[], |_| 0).is_err(), "P1");
    assert!(written().serving(2, true, &[], |_| 11).is_ok());
    assert!(
        written().serving(2, false, &[], |_| 0).is_ok(),
        "it was not flushed"
    );
}

#[test]
fn a_flushed_write_may_never_be_missing() {
    let mut checker = written();
    checker.submitted(OpId(2), 1, Doing::Flush);
    checker.acknowledged(OpId(2)).unwrap();
    assert!(checker.serving(2, false, &[], |_| 0).is_err(), "P1");
}

#[test]
fn a_value_never_goes_back() {
    let mut checker = written();
    write(&mut checker, 2, 1, 12);
    read(&mut checker, 3, 1, 11).unwrap();
    checker.forgotten(OpId(2));
    read(&mut checker, 4, 1, 12).unwrap();
    assert!(read(&mut checker, 5, 1, 11).is_err(), "P3");
}

#[test]
fn a_read_under_way_may_see_what_was_there_when_it_began() {
    let mut checker = written();
    let sectors = vec![(0, 0)];
    checker.submitted(OpId(2), 1, Doing::Read { sectors });
    write(&mut checker, 3, 1, 12);
    checker.acknowledged(OpId(3)).unwrap();
    checker.read(OpId(2), |_| 11).unwrap();
    assert!(read(&mut checker, 4, 1, 11).is_err());
}

#[test]
fn a_primary_that_was_replaced_acknowledges_nothing_new() {
    let mut checker = written();
    write(&mut checker, 2, 1, 12);
    checker.serving(2, true, &[], |_| 11).unwrap();
    assert!(
        checker.acknowledged(OpId(2)).is_err(),
        "P2: the new primary serves without it"
    );
    let mut checker = written();
    checker.serving(2, true, &[], |_| 11).unwrap();
    write(&mut checker, 2, 1, 12);
    assert!(checker.acknowledged(OpId(2)).is_err(), "P2");
    assert!(written().serving(1, true, &[], |_| 11).is_err(), "P2");
}
