//! libFuzzer's entry to the target `envelope` in `fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalbox_fuzz::envelope(data));
