//! Deliberate faults: each breaks one rule, so that the simulation can show that it would notice.
//!
//! Without the feature `faults` the set is empty, has no size, and every question about it is answered "no" at
//! compile time. Never enable the feature in a product.

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// One rule left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// Every fault there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// What it leaves out.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),+ }
            }
        }
    };
}

faults! {
    /// A replica answers an epoch that it has not made durable (D5).
    EpochNotPersisted = "epoch-not-persisted",
    /// A replica serves sessions of an older epoch (D5).
    OldEpochAccepted = "old-epoch-accepted",
    /// The first write to a cold region does not wait for its intent bit (D1).
    IntentNotSynced = "intent-not-synced",
    /// Intent bits are cleared before the data is durable (D3).
    IntentClearedEarly = "intent-cleared-early",
    /// Intent bits are cleared although a write has hit the region since the sync began (D3).
    IntentClearedUnderWrites = "intent-cleared-under-writes",
    /// Stamps are not written before the intent bits are cleared (D3).
    StampsNotWritten = "stamps-not-written",
    /// The durable tick moves without the data being synced (D3).
    DurableWithoutSync = "durable-without-sync",
    /// The chunks of set regions are not suspect after an unclean stop (D4).
    NoSuspects = "no-suspects",
    /// A replica under another boot id stays whole after an unclean stop.
    AlwaysWhole = "always-whole",
    /// A failed sync is taken as done (D6).
    FailedSyncIgnored = "failed-sync-ignored",
    /// A failed sync is tried again (D6).
    FailedSyncRetried = "failed-sync-retried",
    /// A flush is answered without a sync.
    FlushNotSynced = "flush-not-synced",
    /// A flush shares a sync that began before it.
    FlushSharesOldSync = "flush-shares-old-sync",
    /// A write that covers part of a suspect chunk makes it unsuspect (D2, D4).
    StampLowered = "stamp-lowered",
    /// A new session does not wait for what older ones still have in flight on the disk.
    SessionNotDrained = "session-not-drained",
    /// A replica answers requests of a session that has been replaced.
    OldSessionServed = "old-session-served",
    /// A member that was restarted is taken back as if it had only been away (D7).
    UnknownIncarnation = "unknown-incarnation",
    /// Writes are acknowledged before the swap that removes a lost member.
    AckBeforeSwap = "ack-before-swap",
    /// Writes are acknowledged when the first member has answered.
    AckByFirst = "ack-by-first",
    /// The last member is removed as any other.
    LastMemberRemoved = "last-member-removed",
    /// No range lock.
    NoRangeLock = "no-range-lock",
    /// Reads are answered whatever the lease says.
    LeaseIgnored = "lease-ignored",
    /// A new primary does not wait until the lease of the old one has run out.
    WaitIgnored = "wait-ignored",
    /// A replica forgets the lease that it granted before it was restarted.
    LeaseForgotten = "lease-forgotten",
    /// Convergence looks at the source's stamps only.
    OthersStampsForgotten = "others-stamps-forgotten",
    /// Convergence takes any member as the source, whole or not.
    AnySource = "any-source",
    /// Convergence is left out.
    NoConvergence = "no-convergence",
    /// The set is shrunk by a swap that is not tied to the record that was read.
    BlindSwap = "blind-swap",
    /// A swap whose answer was lost is taken as done.
    LostSwapAssumed = "lost-swap-assumed",
    /// The durable tick of a replica under rebuild moves as a member's does.
    DurableDuringRebuild = "durable-during-rebuild",
    /// A replica under rebuild does not receive the writes that come meanwhile.
    RebuildMissesWrites = "rebuild-misses-writes",
    /// The rebuild copies without the range lock.
    CopyWithoutLock = "copy-without-lock",
    /// The rebuild starts before the writes that the target was not sent have ended.
    RebuildWithoutBarrier = "rebuild-without-barrier",
    /// The rebuild ignores what the target has and the source has not.
    TargetsStampsForgotten = "targets-stamps-forgotten",
    /// Chunks with equal stamps are skipped without having been marked suspect first.
    SkipEqualStamps = "skip-equal-stamps",
    /// A rebuilt replica becomes a member without having flushed.
    JoinWithoutFlush = "join-without-flush",
    /// Acknowledgements do not wait for the joining replica while its swap is under way.
    NoJointPhase = "no-joint-phase",
    /// The settled tick covers the tick that is still being written.
    SettledTooNew = "settled-too-new",
}

/// The faults that a machine has.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultSet {
    #[cfg(feature = "faults")]
    only: Option<Fault>,
}

impl FaultSet {
    /// No fault.
    pub const NONE: Self = Self {
        #[cfg(feature = "faults")]
        only: None,
    };

    /// This fault.
    #[cfg(feature = "faults")]
    pub const fn of(fault: Fault) -> Self {
        Self { only: Some(fault) }
    }

    /// Whether the machine has this fault.
    #[cfg(feature = "faults")]
    #[inline]
    pub fn has(self, fault: Fault) -> bool {
        self.only == Some(fault)
    }

    /// Whether the machine has this fault: never.
    #[cfg(not(feature = "faults"))]
    #[inline(always)]
    pub const fn has(self, _fault: Fault) -> bool {
        false
    }
}
