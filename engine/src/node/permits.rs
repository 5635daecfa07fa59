//! How much of a volume may be in flight: operations and bytes. Taken before a request goes on, given back when it
//! is answered, so that memory stays bounded whatever a guest does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

#[derive(Debug)]
struct InFlight {
    operations: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Shared {
    in_flight: Mutex<InFlight>,
    given_back: Condvar,
    max_operations: usize,
    max_bytes: usize,
}

impl Shared {
    fn fits(&self, in_flight: &InFlight, bytes: usize) -> bool {
        in_flight.operations == 0
            || (in_flight.operations < self.max_operations && in_flight.bytes + bytes <= self.max_bytes)
    }
}

/// The bound of one volume.
#[derive(Clone, Debug)]
pub(super) struct Permits {
    shared: Arc<Shared>,
}

/// The right to have one request in flight. Given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Permits {
    pub(super) fn new(max_operations: usize, max_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                in_flight: Mutex::new(InFlight {
                    operations: 0,
                    bytes: 0,
                }),
                given_back: Condvar::new(),
                max_operations: max_operations.max(1),
                max_bytes,
            }),
        }
    }

    /// Waits at most `patience` for room for one operation with so many bytes. One alone always fits.
    pub(super) fn acquire(&self, bytes: usize, patience: Duration) -> Option<Permit> {
        let shared = &self.shared;
        let mut in_flight = shared.in_flight.lock();
        if !shared.fits(&in_flight, bytes) {
            let until = Instant::now() + patience;
            while !shared.fits(&in_flight, bytes) {
                if shared.given_back.wait_until(&mut in_flight, until).timed_out()
                    && !shared.fits(&in_flight, bytes)
                {
                    return None;
                }
            }
        }
        Some(self.take(&mut in_flight, bytes))
    }

    /// The same, if there is room now.
    pub(super) fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let mut in_flight = self.shared.in_flight.lock();
        self.shared
            .fits(&in_flight, bytes)
            .then(|| self.take(&mut in_flight, bytes))
    }

    fn take(&self, in_flight: &mut InFlight, bytes: usize) -> Permit {
        in_flight.operations += 1;
        in_flight.bytes += bytes;
        Permit {
            shared: self.shared.clone(),
            bytes,
        }
    }

    /// Operations in flight.
    pub(super) fn operations(&self) -> usize {
        self.shared.in_flight.lock().operations
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_flight = self.shared.in_flight.lock();
        in_flight.operations -= 1;
        in_flight.bytes -= self.bytes;
        drop(in_flight);
        // All: whoever waits may wait for a different amount.
        self.shared.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn operations_and_bytes_are_bounded_and_given_back() {
        let permits = Permits::new(2, 100);
        let first = permits.acquire(60, SOON).unwrap();
        assert!(permits.acquire(60, SOON).is_none(), "too many bytes");
        let second = permits.acquire(10, SOON).unwrap();
        assert!(permits.acquire(0, SOON).is_none(), "too many operations");
        drop((first, second));
        let alone = permits.try_acquire(1000);
        assert!(permits.try_acquire(1).is_none(), "it goes alone");
        assert!(alone.is_some(), "one that is larger than the bound goes alone");
        assert_eq!(permits.operations(), 1);
        let waiting = permits.clone();
        let waiter = std::thread::spawn(move || waiting.acquire(10, Duration::from_secs(10)).is_some());
        std::thread::sleep(SOON);
        drop(alone);
        assert!(waiter.join().unwrap());
    }
}
