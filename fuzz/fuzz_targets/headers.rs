//! libFuzzer's entry to the target `headers` in `fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalbox_fuzz::headers(data));
