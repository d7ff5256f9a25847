//! Rules broken on purpose.

/// A broken alternative to one rule of the protocol. Each looks reasonable; the model must find a seed against each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Rule 1: the mark is the highest position read, without the gaps below it.
    HighestAsMark,
    /// Rule 1: a position is made of poll and index in the poll.
    PositionOfPoll,
    /// Rule 3: a new run takes its epochs from the clock alone, which may stand behind the saved epoch.
    EpochFromClock,
    /// Rule 4: changes are routed by id, not by key.
    RouteById,
    /// Rule 5: an id that was seen is dropped, also at its own position.
    SeenSoDrop,
    /// Rule 5: an id used again outside its window takes the place of its earlier use in the seen-set.
    OneSlotPerId,
    /// Rule 5: the seen-set evicts by the newest change it has met, above the mark too.
    EvictAhead,
    /// Rule 5: ids of ledger and parked store do not enter the seen-set on start.
    LedgerNotSeen,
    /// Rule 6: key and permit are given back at the answer, the note follows when it can.
    KeyAtAnswer,
    /// Rule 6: the epoch is given back at the answer, the note follows when it can.
    EpochAtAnswer,
    /// Rule 7: the epoch of a parked change is released before the record is durable.
    ParkedEpochEarly,
    /// Rule 7: resolving a parked record takes its note away at once.
    NoteGoneAtResolve,
    /// Rule 7: the held set is loaded while changes already flow.
    HeldLoadedLate,
    /// Rule 8: outcomes of a cut-back sink are noted in the ledger, its length is saved with the checkpoint.
    SinkNoted,
    /// Rule 8: the length is taken when the save is committed, not at its epoch boundary.
    LengthAtCommit,
    /// Rule 8: the length is taken without syncing the file first.
    SinkUnsynced,
    /// Rule 8: files are not cut back on resume.
    NoCutBack,
    /// Rule 8: files that the checkpoint does not know are left alone on resume.
    StrangersKept,
    /// Rule 12: what exceeds the share of an action is parked at once, ahead of earlier changes of its key that are still tried.
    SpillAhead,
    /// Rule 13: state deltas of a failed save are forgotten.
    DeltasForgotten,
    /// Rule 14: a mark is saved whether or not the books balance.
    BooksUnchecked,
    /// Rule 14: counts go on counting over a replay.
    ReplayCounted,
    /// Promise 1: a replaced run may still write its mark.
    NoFence,
    /// Ledger: a save lets go of all notes with epochs below it, also those of earlier runs, whose epochs mean nothing now.
    OldNotesByEpoch,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 24] = [
        Mutation::HighestAsMark,
        Mutation::PositionOfPoll,
        Mutation::EpochFromClock,
        Mutation::RouteById,
        Mutation::SeenSoDrop,
        Mutation::OneSlotPerId,
        Mutation::EvictAhead,
        Mutation::LedgerNotSeen,
        Mutation::KeyAtAnswer,
        Mutation::EpochAtAnswer,
        Mutation::ParkedEpochEarly,
        Mutation::NoteGoneAtResolve,
        Mutation::HeldLoadedLate,
        Mutation::SinkNoted,
        Mutation::LengthAtCommit,
        Mutation::SinkUnsynced,
        Mutation::NoCutBack,
        Mutation::StrangersKept,
        Mutation::SpillAhead,
        Mutation::DeltasForgotten,
        Mutation::BooksUnchecked,
        Mutation::ReplayCounted,
        Mutation::NoFence,
        Mutation::OldNotesByEpoch,
    ];
}
