//! One thread that wakes the machines of all volumes when they asked for it. What it calls must not block.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::clock;
use super::executor::STACK;
use crate::machine::Time;

/// The longest sleep: after a suspend, or a jump between the clocks, the thread is late by no more than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What is woken.
pub(super) trait Alarm: Send + Sync {
    /// The time that was asked for has come. `what` is what [`Timers::set`] was given. Must not block.
    fn ring(&self, what: u32);
}

/// Whose alarm, and which of its.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    owner: u64,
    what: u32,
}

#[derive(Default)]
struct State {
    next_owner: u64,
    by_time: BTreeMap<(Time, Key), Weak<dyn Alarm>>,
    times: BTreeMap<Key, Time>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The alarms of a node; ends the thread when dropped.
pub(super) struct Timers {
    wakers: Waker,
}

/// Sets alarms, for as long as the thread lives.
#[derive(Clone)]
pub(super) struct Waker {
    shared: Arc<Shared>,
}

impl Timers {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ours = shared.clone();
        thread::Builder::new()
            .name("bulkhead-timer".into())
            .stack_size(STACK)
            .spawn(move || run(&ours))?;
        let wakers = Waker { shared };
        Ok(Self { wakers })
    }

    /// For those who outlive the node.
    pub(super) fn waker(&self) -> Waker {
        self.wakers.clone()
    }
}

impl std::ops::Deref for Timers {
    type Target = Waker;

    fn deref(&self) -> &Waker {
        &self.wakers
    }
}

impl Waker {
    /// A number for somebody who will set alarms.
    pub(super) fn new_owner(&self) -> u64 {
        let mut state = self.shared.state.lock();
        state.next_owner += 1;
        state.next_owner
    }

    /// Rings `alarm` with `what` at `at`; replaces what the same owner asked for under the same `what` before.
    pub(super) fn set(&self, owner: u64, what: u32, at: Time, alarm: Weak<dyn Alarm>) {
        let key = Key { owner, what };
        let mut state = self.shared.state.lock();
        if state.stopped {
            return;
        }
        if let Some(before) = state.times.insert(key, at) {
            state.by_time.remove(&(before, key));
        }
        state.by_time.insert((at, key), alarm);
        let is_first = state
            .by_time
            .first_key_value()
            .is_some_and(|(first, _)| *first == (at, key));
        drop(state);
        if is_first {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        let shared = &self.wakers.shared;
        let mut state = shared.state.lock();
        state.stopped = true;
        state.by_time.clear();
        drop(state);
        shared.changed.notify_one();
    }
}

fn run(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.stopped {
        let now = clock::now();
        let Some((&(at, key), _)) = state.by_time.first_key_value() else {
            shared.changed.wait_for(&mut state, LONGEST_SLEEP);
            continue;
        };
        if at > now {
            shared
                .changed
                .wait_for(&mut state, at.since(now).min(LONGEST_SLEEP));
            continue;
        }
        let Some(alarm) = state.by_time.remove(&(at, key)) else {
            continue;
        };
        if let Entry::Occupied(entry) = state.times.entry(key) {
            entry.remove();
        }
        parking_lot::MutexGuard::unlocked(&mut state, || {
            if let Some(alarm) = alarm.upgrade() {
                alarm.ring(key.what);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Bell(Mutex<mpsc::Sender<(u32, Time)>>);

    impl Alarm for Bell {
        fn ring(&self, what: u32) {
            let _ = self.0.lock().send((what, clock::now()));
        }
    }

    #[test]
    fn alarms_ring_in_order_and_a_later_wish_replaces_an_earlier() {
        let timers = Timers::start().unwrap();
        let (sender, rung) = mpsc::channel();
        let bell: Arc<dyn Alarm> = Arc::new(Bell(Mutex::new(sender)));
        let owner = timers.new_owner();
        let start = clock::now();
        let after = |millis| start + Duration::from_millis(millis);
        timers.set(owner, 1, after(40), Arc::downgrade(&bell));
        timers.set(owner, 2, after(20), Arc::downgrade(&bell));
        timers.set(owner, 3, after(10_000), Arc::downgrade(&bell));
        timers.set(owner, 3, after(60), Arc::downgrade(&bell));
        for expected in [2, 1, 3] {
            let (what, at) = rung.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(what, expected);
            assert!(at.since(start) >= Duration::from_millis(20));
        }
        drop(bell);
        timers.set(owner, 1, Time::ZERO, Weak::<Bell>::new());
        assert!(rung.recv_timeout(Duration::from_secs(10)).is_err());
    }
}
