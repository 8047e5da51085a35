//! libFuzzer's entry to the target `extract_github` in `fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalbox_fuzz::extract_github(data));
