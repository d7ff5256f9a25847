//! highwater.
