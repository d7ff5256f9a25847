//! highwater-sinks.
