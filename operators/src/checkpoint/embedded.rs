//! The checkpoint store of a single process: one journal in a data directory.
