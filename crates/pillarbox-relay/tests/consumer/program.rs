//! Stores that are no Postgres: a private server of the system's packages, driven by its own client.
//!
//! Must never be skipped where `PILLARBOX_ALL_STORES` is set, which `.ci/run` does; nor silently elsewhere.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pillarbox_lab::process::on_path;

/// The programs, or `None` where one is missing and may be.
///
/// # Panics
/// Where one is missing and must not be.
pub(crate) fn programs<const N: usize>(names: [&str; N], package: &str) -> Option<[PathBuf; N]> {
    // Servers lie where the PATH of ordinary users does not lead.
    let find = |name: &str| {
        on_path(name)
            .or_else(|| Some(format!("/usr/sbin/{name}").into()).filter(|path: &PathBuf| path.is_file()))
    };
    let found = names.map(|name| find(name).ok_or(name));
    let missing: Vec<&str> = found.iter().filter_map(|found| found.as_ref().err().copied()).collect();
    if missing.is_empty() {
        return Some(found.map(|found| found.expect("none is missing")));
    }
    let words = format!("{} not found (Debian: apt install {package})", missing.join(", "));
    assert!(std::env::var_os("PILLARBOX_ALL_STORES").is_none(), "{words}");
    // Not by eprintln!, which is shown for tests that fail only.
    writeln!(std::io::stderr(), "\n*** SKIPPED, nothing was tested: {words} ***").expect("stderr");
    None
}

/// What a client says to a script: standard output, or else standard error.
pub(crate) fn converse(command: &mut Command, script: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    // A client that finds no server ends before it has read all.
    match child.stdin.take().expect("a pipe").write_all(script.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.expect("the client reads"),
    }
    let output = child.wait_with_output().expect("the client ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
