//! The walk over a row: never panics, whatever the text; agrees with serde_json on every valid object.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| highwater_fuzz::check_row(text));
