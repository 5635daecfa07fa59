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
    /// The metadata file is written before what was found in it is durable (D11).
    FoundNotSynced = "found-not-synced",
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
    /// Writes and flushes are acknowledged whatever the lease says (O4).
    AckWithoutLease = "ack-without-lease",
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
    /// The checkpoint writes the settled tick as known when it ends, not as noted when it began (D3).
    DurableNotNoted = "durable-not-noted",
    /// The checkpoint's superblock goes to disk before the stamps (D3).
    CheckpointStampsLast = "superblock-before-stamps",
    /// A replica answers a raised epoch without taking it into its superblock (D5).
    RaiseNotNoted = "raise-not-noted",
    /// Two primaries of one epoch are both served: the record was taken back in between (T3).
    EpochSharedByTerms = "epoch-shared-by-terms",
    /// A primary is attached though a replica knows a newer epoch than the record (T3).
    OlderStoreAccepted = "older-store-accepted",
    /// Verify compares without the range lock (V1).
    VerifyWithoutLock = "verify-without-lock",
    /// Verify mends from the smallest group of members that agree (V2).
    RepairByMinority = "repair-by-minority",
    /// A rebuild copies only while nothing else goes on (R4).
    RebuildStarves = "rebuild-starves",
    /// A replica serves whoever reaches it, also if another one is meant (D7).
    IdentityIgnored = "identity-ignored",
    /// A replica keeps its incarnation over a restart (D7).
    IncarnationKept = "incarnation-kept",
    /// The clean flag stays when the replica is opened for writing (D4).
    CleanNotCleared = "clean-not-cleared",
    /// A release that a newer session has overtaken still sets the clean flag (D10).
    LateRelease = "late-release",
    /// The clean flag is written before the last sync of the data (D3).
    CleanEarly = "clean-early",
    /// The stamp of a copy is set before the copy has ended (D2).
    CopyStampEarly = "copy-stamped-early",
    /// The pieces of a copy leave the stamp of their chunk as it is until the last one has come (D2).
    PieceNotMarked = "piece-not-marked",
    /// A copy compares before the range is locked (R4).
    CompareWithoutLock = "compare-without-lock",
    /// The last blocks of a chunk that differ are not copied (R4).
    BlocksLeftOut = "blocks-left-out",
    /// The stamp of a chunk that was compared is set before its differing blocks are copied (D2).
    StampedBeforeBlocks = "stamped-before-blocks",
    /// A failure is not noted on disk (D6).
    FailureNotNoted = "failure-not-noted",
    /// A write waits for the commit under way, which does not carry its intent bit (D1).
    WrongCommitAwaited = "wrong-commit-awaited",
    /// Zeroes do not raise the stamps of their chunks (D2).
    ZeroNotStamped = "zero-not-stamped",
    /// Zeroes go to one member only (O2).
    ZeroNotReplicated = "zero-not-replicated",
    /// A copy leaves out what is hole in the source (R4).
    HoleNotCopied = "hole-not-copied",
    /// Only the first piece of a chunk is copied (R4).
    CopyEndsEarly = "copy-ends-early",
    /// A member without space counts as one that has done the write (O5).
    NoSpaceAcknowledged = "no-space-acknowledged",
    /// A flush is acknowledged when the first member has answered (O2).
    FlushByFirst = "flush-by-first",
    /// A write's range is given back when the first member has answered (O1).
    LockReleasedEarly = "lock-released-early",
    /// Reads are served by replicas under rebuild (O4).
    ReadFromAnyone = "read-from-anyone",
    /// A lease counts from the answer, not from when the request was sent (O4).
    LeaseFromAnswer = "lease-from-answer",
    /// The primary uses the whole lease, whatever the clocks do (O4).
    LeaseInFull = "lease-in-full",
    /// Reads do not depend on the lease of a joining replica (R5).
    JointLeaseForgotten = "joint-lease-forgotten",
    /// A new primary serves without looking whether its leases still hold (O4).
    FirstLeaseIgnored = "first-lease-ignored",
    /// The settled tick passes unfinished writes of earlier ticks (O3).
    SettledIgnoresOpen = "settled-ignores-open",
    /// A new epoch goes on with the ticks of the old one (O3).
    TickKept = "tick-kept",
    /// Held operations are acknowledged before the remaining members have persisted the epoch (L2).
    RaiseNotAwaited = "raise-not-awaited",
    /// A swap whose answer was lost is taken as not done (L3).
    UnknownSwapFailed = "unknown-swap-failed",
    /// A record that carries the id of a change is taken for its outcome, whoever is primary by it (L3).
    OutcomeByChange = "outcome-by-change",
    /// A joining replica that is lost is dropped as one under rebuild, though it may be a member already (R5).
    JoiningDropped = "joining-dropped",
    /// A primary that is cut off from everything goes on (L4).
    IsolationIgnored = "isolation-ignored",
    /// Operations have no deadline (L4).
    IoTimeoutIgnored = "io-timeout-ignored",
    /// A primary serves before every member has been opened or removed (T2).
    ServeBeforeAllOpen = "serve-before-all-open",
    /// A member that is restarted during the convergence goes on where it was (T2).
    RestartOverlooked = "restart-overlooked",
    /// Convergence starts from the greatest durable tick instead of the smallest (T4).
    GreatestDurable = "greatest-durable",
    /// What a convergence copied keeps the stamps of the source (T4).
    ConvergedNotStamped = "converged-not-stamped",
    /// A converged volume is served before the copies are durable (T4).
    ConvergedNotFlushed = "converged-not-flushed",
    /// A sole member does not restamp what it cannot account for (T4).
    SoleNotRestamped = "sole-not-restamped",
    /// Of a long list of changed chunks only the first page is asked for (T4, R2).
    FirstPageOnly = "first-page-only",
    /// A replica under rebuild is told the settled tick before its set is marked (R2).
    SettledToldEarly = "settled-told-early",
    /// The rebuild leaves out what is suspect on the target (R2, D4).
    RebuildForgetsSuspects = "rebuild-forgets-suspects",
    /// The copying starts before the marks are durable on the target (R3).
    MarksNotFlushed = "marks-not-flushed",
    /// A replica under rebuild may be the source of another rebuild (R2).
    RebuildFromAnyone = "rebuild-from-anyone",
    /// An Open of an older epoch counts as the new one being on that disk (L2).
    OldOpenCounts = "old-open-counts",
    /// Members on nodes that are said to be dead are left out without a swap (T2).
    DeadUnrecorded = "dead-unrecorded",
    /// A rebuilt replica is made a member without a swap (R5).
    JoinUnrecorded = "join-unrecorded",
    /// What a member had not answered when its connection broke is taken as done (L1).
    UnansweredTakenAsDone = "unanswered-taken-as-done",
    /// Of a set region only the first chunk is suspect after an unclean stop (D4).
    FirstChunkSuspect = "first-chunk-suspect",
    /// Writes of an older session that still wait for their intent reach the disk (D8).
    WaitingWritesKept = "waiting-writes-kept",
    /// A member whose disk was full stays, though others have done the write (O5).
    FullMemberStays = "full-member-stays",
    /// Long operations take no range lock (O1).
    LongRangeUnlocked = "long-range-unlocked",
    /// Reads take no range lock (O1).
    ReadUnlocked = "read-unlocked",
    /// A record that the watch shows late is taken for the newest (L4).
    OlderRecordBelieved = "older-record-believed",
    /// A member that cannot read what it holds is removed, but not told to mark itself as failed (D6).
    FailNotTold = "fail-not-told",
    /// A release does not wait for operations under way (L4).
    ReleaseNotAwaited = "release-not-awaited",
    /// A member that was dismissed goes whether the others can be counted on or not (L2).
    DismissedAnyway = "dismissed-anyway",
    /// A process goes on for the one before whoever the record names (T5).
    ResumeUnconditional = "resume-unconditional",
    /// The swap by which a process goes on is not tied to the record that was read (T5).
    ResumeBlindSwap = "resume-blind-swap",
    /// A process goes on in the epoch of the one before, and as the same attaching (T5).
    ResumeWithoutEpoch = "resume-without-epoch",
    /// A process that goes on for the one before does not make the members identical (T5, T4).
    ResumeWithoutConvergence = "resume-without-convergence",
    /// Whoever attaches where the record names its node claims to go on for one that has served (T5).
    ResumeFromUnserved = "resume-from-unserved",
    /// A replica has a primary that goes on wait for the lease of the process before (T5).
    ResumeWaits = "resume-waits",
    /// What the process before had read and not answered is answered without being done again.
    ResumeForgets = "resume-forgets",
    /// What the process before had read and not answered is never answered.
    ResumeDrops = "resume-drops",
    /// A connection that no process could go on with in time is not ended (L5).
    ResumeNeverEnds = "resume-never-ends",
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
