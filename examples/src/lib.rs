//! highwater-examples.
