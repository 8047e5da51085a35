//! libFuzzer's entry to the target `config` in `fuzz/src`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| signalbox_fuzz::config(data));
