//! Messages of a replication stream, and the values in them: whatever the bytes, they are read or refused, and nothing panics.
#![no_main]

libfuzzer_sys::fuzz_target!(|message: &[u8]| highwater_sources::postgres::replication::fuzz(message));
