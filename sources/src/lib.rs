//! highwater-sources.
