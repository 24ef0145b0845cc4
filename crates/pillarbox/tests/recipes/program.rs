//! The recipes as programs: the folder of each, how it is made ready, and how it is started.
//!
//! | language | made ready by | started as |
//! | --- | --- | --- |
//! | rust | compiled into this test, so that librdkafka is built once | this test, asked for one function |
//! | python, java, go, node | what `examples/consume/README.md` says, in a copy below `target/tmp` | its README's command |
//!
//! What was made ready is kept until a file of the recipe changes. A language whose runtime is missing is left out, and
//! the test says so; where `PILLARBOX_ALL_LANGUAGES` is set, as in CI, it fails. Must never write into the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How often the preparation of a recipe is tried.
const ATTEMPTS: u32 = 3;

/// Of the copy that was made ready: what it was made of.
const STAMP: &str = ".ready";

/// A language: its folder in `examples/consume`, a command that only succeeds where its runtime is, then what the
/// README says.
struct Language {
    name: &'static str,
    runtime: &'static [&'static str],
    prepare: &'static [&'static [&'static str]],
    run: &'static [&'static str],
}

const LANGUAGES: [Language; 5] = [
    Language { name: "rust", runtime: &[], prepare: &[], run: &[] },
    Language {
        name: "python",
        runtime: &["python3", "-m", "pip", "--version"],
        prepare: &[&[
            "python3",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            "packages",
            "-r",
            "requirements.txt",
        ]],
        run: &["python3", "consume.py"],
    },
    Language {
        name: "java",
        runtime: &["mvn", "--version"],
        prepare: &[
            &["mvn", "-q", "-B", "dependency:copy-dependencies"],
            &["javac", "-cp", "target/dependency/*", "Consume.java"],
        ],
        run: &["java", "-cp", "target/dependency/*:.", "Consume"],
    },
    Language {
        name: "go",
        runtime: &["go", "version"],
        prepare: &[&["go", "build", "-o", "consume", "."]],
        run: &["./consume"],
    },
    Language {
        name: "node",
        runtime: &["npm", "--version"],
        prepare: &[&["npm", "ci", "--silent", "--no-audit", "--no-fund"]],
        run: &["node", "consume.mjs"],
    },
];

/// A recipe that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Its language, or the mistake that was planted in it.
    pub(crate) name: &'static str,
    words: Vec<String>,
    folder: PathBuf,
}

impl Program {
    /// A command that runs it: in its folder, without arguments, with nothing of its environment yet.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).current_dir(&self.folder);
        // Many JVMs at once: each stays small, and starts fast.
        command.env("JDK_JAVA_OPTIONS", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx128m");
        command.env("PYTHONPATH", self.folder.join("packages"));
        command
    }

    /// The same recipe with a mistake: some of its text is replaced.
    ///
    /// # Panics
    /// Where the text is not there, exactly once.
    pub(crate) fn spoil(&self, name: &'static str, changes: &[(&str, &str)]) -> Self {
        let file = self.words.last().expect("a command ends with its file");
        let mut text = fs::read_to_string(self.folder.join(file)).expect("the recipe");
        for (before, after) in changes {
            assert_eq!(text.matches(before).count(), 1, "{file} has {before:?} once");
            text = text.replace(before, after);
        }
        let spoiled = format!("{name}.py");
        fs::write(self.folder.join(&spoiled), text).expect("it is written");
        Self { name, words: vec![self.words[0].clone(), spoiled], folder: self.folder.clone() }
    }
}

/// All recipes whose runtime is installed.
pub(crate) fn programs() -> Vec<Program> {
    static READY: Mutex<Option<Vec<Program>>> = Mutex::new(None);
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let prepared = || {
        std::thread::scope(|scope| {
            let threads = LANGUAGES.each_ref().map(|language| scope.spawn(|| language.ready()));
            threads.into_iter().filter_map(|thread| thread.join().expect("the recipe is ready")).collect()
        })
    };
    ready.get_or_insert_with(prepared).clone()
}

impl Language {
    /// None where its runtime is missing.
    fn ready(&self) -> Option<Program> {
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let Some(program) = self.runtime.first() else {
            let this = std::env::current_exe().expect("a path").display().to_string();
            let words = text(&[&this, "--exact", super::RUST_RECIPE, "--ignored", "--nocapture"]);
            return Some(Program { name: self.name, words, folder: std::env::temp_dir() });
        };
        let temporary = std::env::temp_dir();
        let known = command(self.runtime, &temporary).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            let words = format!("{}: left out, {program} is not installed", self.name);
            assert!(std::env::var_os("PILLARBOX_ALL_LANGUAGES").is_none(), "{words}");
            println!("{words}");
            return None;
        }
        let folder = self.prepared();
        Some(Program { name: self.name, words: text(self.run), folder })
    }

    fn prepared(&self) -> PathBuf {
        let source = root().join("examples/consume").join(self.name);
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recipes").join(self.name);
        let stamp = stamp(&source);
        if fs::read(copy.join(STAMP)).is_ok_and(|old| old == stamp) {
            return copy;
        }
        let started = Instant::now();
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(&copy).expect("a folder");
        for file in files(&source) {
            fs::copy(&file, copy.join(file.file_name().expect("a name"))).expect("a copy");
        }
        for words in self.prepare {
            // Packages come over a network.
            let prepared = (0..ATTEMPTS).any(|_| {
                let output = command(words, &copy).output().expect("it starts");
                let said = [output.stdout, output.stderr].concat();
                println!("{}: {words:?}: {}", self.name, String::from_utf8_lossy(&said));
                output.status.success()
            });
            assert!(prepared, "{}: {words:?}", self.name);
        }
        fs::write(copy.join(STAMP), stamp).expect("it is written");
        println!("{}: made ready in {:.1?}", self.name, started.elapsed());
        copy
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the root").to_owned()
}

/// The files of a recipe; folders that an earlier run by hand left there are not part of it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the recipe").map(|entry| entry.expect("an entry"));
    let mut files: Vec<_> =
        entries.filter(|entry| entry.file_type().expect("a type").is_file()).map(|e| e.path()).collect();
    files.sort();
    files
}

/// Everything that the recipe consists of.
fn stamp(folder: &Path) -> Vec<u8> {
    files(folder).iter().flat_map(|file| fs::read(file).expect("a file of the recipe")).collect()
}

fn command(words: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null());
    command
}
