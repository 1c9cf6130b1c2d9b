#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| razorfs_fuzz::guest_state::run(data));
