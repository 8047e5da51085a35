//! libFuzzer's entry to the target `secrets` in `fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalbox_fuzz::secrets(data));
