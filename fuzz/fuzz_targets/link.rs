#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sealway_testkit::targets::link(octets));
