//! Fetches servers by their Maven coordinates and unpacks them into the cache.
//!
//! One path for both: Kafka is published as Maven artifacts only, and the portable Postgres builds
//! (`io.zonky.test.postgres`) are too; Maven brings the user's mirrors, proxies and credentials.
//! Must never fetch anything that is not a released version named here or by the caller.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::cache::{self, Progress};
use crate::{LabError, error};

/// The plugin that copies and unpacks artifacts; pinned, since its options changed between versions.
const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";
/// The log binding: the same line as the `slf4j-api` that Kafka 3.9 to 4.3 brings.
const SLF4J: &str = "1.7.36";
/// How often a download is tried, and the pause between.
const ATTEMPTS: u32 = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(5);
/// Points at the `bin` folder of an installed Postgres, used instead of a download.
pub const PG_BIN_VARIABLE: &str = "PILLARBOX_LAB_PG_BIN";

/// The newest published build of each Postgres major version.
const POSTGRES_BUILDS: [(u32, &str); 4] = [(15, "15.18.0"), (16, "16.14.0"), (17, "17.10.0"), (18, "18.4.0")];

/// The folder `bin` of a Postgres of this major version: `$PILLARBOX_LAB_PG_BIN` where set (whatever its
/// version), else the cache, filled first if need be.
pub fn postgres_bin(major: u32, progress: &dyn Fn(Progress)) -> Result<PathBuf, LabError> {
    if let Some(bin) = std::env::var_os(PG_BIN_VARIABLE).filter(|b| !b.is_empty()) {
        return Ok(PathBuf::from(bin));
    }
    let Some((_, build)) = POSTGRES_BUILDS.iter().find(|(m, _)| *m == major) else {
        return Err(LabError::Option { what: format!("postgres {major} is not served: 15, 16, 17 or 18") });
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64v8",
        arch => return Err(LabError::Platform { what: "postgres", arch, variable: PG_BIN_VARIABLE }),
    };
    let name = format!("postgres-{build}");
    let artifact = format!("io.zonky.test.postgres:embedded-postgres-binaries-linux-{arch}:{build}");
    let dir = cache::install(&name, progress, |dir| fetch_postgres(&name, &artifact, dir, progress))?;
    Ok(dir.join("bin"))
}

/// Fetches the jar, takes the one archive out of it, and unpacks that.
fn fetch_postgres(
    name: &str,
    artifact: &str,
    dir: &Path,
    progress: &dyn Fn(Progress),
) -> Result<(), LabError> {
    progress(Progress::Downloading(name.to_owned()));
    let jar = tempfile::tempdir().map_err(LabError::io("make a folder in", std::env::temp_dir()))?;
    let options = [format!("-Dartifact={artifact}"), format!("-DoutputDirectory={}", jar.path().display())];
    maven("unpack", &options, jar.path(), artifact)?;
    let archive = fs::read_dir(jar.path())
        .map_err(LabError::io("list", jar.path()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "txz"))
        .ok_or_else(|| LabError::Download { wanted: artifact.into(), output: "no archive inside".into() })?;
    progress(Progress::Unpacking(name.to_owned()));
    let file = BufReader::new(File::open(&archive).map_err(LabError::io("open", &archive))?);
    let mut tar = tar::Archive::new(lzma_rust2::XzReader::new(file, true));
    tar.unpack(dir).map_err(LabError::io("unpack", &archive))
}

/// The folder with the jars of this Kafka version, from the cache, filled first if need be.
pub fn kafka_libs(version: &str, progress: &dyn Fn(Progress)) -> Result<PathBuf, LabError> {
    if version.is_empty() || !version.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(LabError::Option { what: format!("not a Kafka version: {version:?}") });
    }
    let artifacts =
        [("org.apache.kafka", "kafka_2.13", version), ("org.apache.kafka", "kafka-tools", version)];
    libs(&format!("kafka-{version}"), &artifacts, progress)
}

/// The folder with the jars of Kafka Connect and of Debezium's connector for Postgres, from the cache, filled first if
/// need be.
pub fn debezium_libs(debezium: &str, kafka: &str, progress: &dyn Fn(Progress)) -> Result<PathBuf, LabError> {
    let artifacts = [
        ("io.debezium", "debezium-connector-postgres", debezium),
        ("org.apache.kafka", "connect-runtime", kafka),
    ];
    libs(&format!("debezium-{debezium}-kafka-{kafka}"), &artifacts, progress)
}

/// Fetches artifacts (group, name, version) with all that they need.
fn libs(
    name: &str,
    artifacts: &[(&str, &str, &str)],
    progress: &dyn Fn(Progress),
) -> Result<PathBuf, LabError> {
    let dir = cache::install(name, progress, |dir| {
        progress(Progress::Downloading(name.to_owned()));
        let file = dir.join("pom.xml");
        fs::write(&file, pom(artifacts)).map_err(LabError::io("write", &file))?;
        let options = [format!("-DoutputDirectory={}", dir.join("libs").display())];
        let wanted: Vec<String> = artifacts.iter().map(|(g, a, v)| format!("{g}:{a}:{v}")).collect();
        maven("copy-dependencies", &options, dir, &wanted.join(", "))
    })?;
    Ok(dir.join("libs"))
}

/// A project that has nothing but these as its dependencies, and a log binding.
fn pom(artifacts: &[(&str, &str, &str)]) -> String {
    let dependency = |(group, artifact, version): &(&str, &str, &str)| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let log = ("org.slf4j", "slf4j-simple", SLF4J);
    format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>pillarbox</groupId>\
         <artifactId>lab</artifactId><version>1</version><dependencies>{}</dependencies></project>\n",
        artifacts.iter().chain([&log]).map(dependency).collect::<String>(),
    )
}

/// Runs one goal of the dependency plugin in `dir`; again where a repository did not answer.
fn maven(goal: &str, options: &[String], dir: &Path, wanted: &str) -> Result<(), LabError> {
    for _ in 1..ATTEMPTS {
        match attempt(goal, options, dir, wanted) {
            Err(LabError::Download { .. }) => std::thread::sleep(ATTEMPT_PAUSE),
            other => return other,
        }
    }
    attempt(goal, options, dir, wanted)
}

fn attempt(goal: &str, options: &[String], dir: &Path, wanted: &str) -> Result<(), LabError> {
    let output = Command::new("mvn")
        .args(["-q", "-B", "-Dstyle.color=never", &format!("{PLUGIN}:{goal}")])
        .args(options)
        .current_dir(dir)
        .output()
        .map_err(|_| LabError::MavenMissing { wanted: wanted.to_owned() })?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Download { wanted: wanted.to_owned(), output: last_lines(&output) })
}

/// The version of Java, such as 17.0.15; fails with what to install where it does not run.
pub(crate) fn need_java() -> Result<String, LabError> {
    let answer = Command::new("java").arg("-version").output().map_err(|_| LabError::JavaMissing)?;
    let said = String::from_utf8_lossy(&answer.stderr);
    // openjdk version "17.0.15" 2025-04-15
    let version = said.split('"').nth(1).map(|version| version.replace(['/', ' '], "-"));
    version.filter(|_| answer.status.success()).ok_or(LabError::JavaMissing)
}

/// The end of what a program printed, for an error message.
pub(crate) fn last_lines(output: &Output) -> String {
    error::tail(&format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
