//! Feeds the reader of configuration files, which is part of the binary, hence by its path. Must never follow a
//! reference to a file.
#![no_main]

#[path = "../../crates/pillarbox/src"]
mod binary {
    pub(crate) mod config;
}

use binary::config::{interpret, secret::Outside};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.contains("file:") || text.contains("ca:") || text.contains("cert:") {
        return;
    }
    let outside = Outside { env: &|_| None, base: std::path::PathBuf::from("/nowhere") };
    let _ = interpret("fuzz.yaml", text.to_owned(), outside);
});
