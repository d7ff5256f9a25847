//! highwater-benches.
