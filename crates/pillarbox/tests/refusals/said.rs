//! Runs the binary, keeps what it said, and holds it to what a user may expect.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::site::Configuration;

/// A password that must be in no output.
pub(crate) const CANARY_PASSWORD: &str = "canary-password-5cd1";

/// A text in rows that must be in no output.
pub(crate) const CANARY_PAYLOAD: &str = "canary-payload-88e2";

/// Above the 30 s for which `run` tries servers that it has never reached.
const COMMAND_MAX: Duration = Duration::from_secs(90);

/// What a command said.
pub(crate) struct Said {
    what: String,
    code: Option<i32>,
    text: String,
}

/// Runs `pillarbox WORDS -c FILE` to its end, with a log of everything.
///
/// # Panics
/// Where it does not end in time, or shows a canary.
pub(crate) fn pillarbox(words: &[&str], file: &Path) -> Said {
    let output = tempfile::NamedTempFile::new().expect("a file");
    let open = || Stdio::from(File::options().append(true).open(output.path()).expect("a file"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.args(words).arg("-c").arg(file).env("RUST_LOG", "trace");
    let mut child = command.stdin(Stdio::null()).stdout(open()).stderr(open()).spawn().expect("it starts");
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("our child") {
            Some(status) => break status,
            None if started.elapsed() > COMMAND_MAX => {
                let _ = child.kill();
                let text = fs::read_to_string(output.path()).unwrap_or_default();
                panic!("{words:?} did not end within {COMMAND_MAX:?}; a log of {} bytes", text.len());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = fs::read_to_string(output.path()).expect("text");
    for canary in [CANARY_PASSWORD, CANARY_PAYLOAD] {
        assert!(!text.contains(canary), "{words:?} shows {canary}");
    }
    println!("{words:?} ended after {:.1?}", started.elapsed());
    Said { what: words.join(" "), code: status.code(), text }
}

/// `pillarbox run --exit-on-halt`.
pub(crate) fn run(file: &Path) -> Said {
    pillarbox(&["run", "--exit-on-halt"], file)
}

impl Said {
    /// It ended with this exit code and these words. `code` is the number in `PB-nnnn`.
    pub(crate) fn expect(&self, exit: i32, code: u16, words: &[&str]) {
        let told = self.told();
        assert_eq!(self.exit(), Some(exit), "{}: exit code:\n{told}", self.what);
        assert!(told.contains(&format!("error[PB-{code:04}]")), "{}: PB-{code:04}:\n{told}", self.what);
        // A mark under the wrong word of a file is a hint, too.
        let helps = ["hint: ", "fix: ", "^^^", "^\n"].iter().any(|help| told.contains(help));
        assert!(helps, "{}: no hint:\n{told}", self.what);
        for word in words {
            assert!(told.contains(word), "{}: {word:?} is missing in:\n{told}", self.what);
        }
    }

    /// Its exit code; `None` where a signal ended it.
    pub(crate) fn exit(&self) -> Option<i32> {
        self.code
    }

    /// What is for the user: everything but the lines of the log, which are JSON here.
    pub(crate) fn told(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.starts_with("{\"timestamp\""));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// Writes the file once more with one thing replaced, beside the original.
///
/// # Panics
/// Where there is nothing to replace.
pub(crate) fn edited(configuration: &Configuration, from: &str, to: &str) -> Configuration {
    let text = fs::read_to_string(&configuration.file).expect("the file");
    assert!(text.contains(from), "{from:?} is not in {text}");
    static COPIES: AtomicUsize = AtomicUsize::new(1);
    let name = configuration.file.file_stem().expect("a name").to_string_lossy().into_owned();
    let copy = COPIES.fetch_add(1, Ordering::Relaxed);
    let file = configuration.file.with_file_name(format!("{name}-{copy}.yaml"));
    // A copy listens nowhere: several may run at once.
    let listen = format!("\"127.0.0.1:{}\"", configuration.port);
    fs::write(&file, text.replace(from, to).replace(&listen, "off")).expect("the file is written");
    let mut copy = configuration.clone();
    copy.file = file;
    copy
}
