//! libFuzzer's entry to the target `plan` in `fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalbox_fuzz::plan(data));
