//! A broker's classes, parsed and checked once: the JVM keeps them in an archive (class data sharing), and brokers and tools
//! start with half the CPU.
//!
//! ```text
//! <cache>/kafka-4.3.1-classes-17.0.15/classes.jsa      made by a broker of its own, when it ends
//! ```
//! Must never keep a JVM from starting: one that the archive does not fit says so and does without.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Kafka, KafkaOptions};
use crate::account::server_account;
use crate::folder::Temporary;
use crate::{LabError, cache, download};

/// The archive's name.
const FILE: &str = "classes.jsa";

/// Where the classes of a JVM come from.
#[derive(Debug, Clone)]
pub(super) enum Classes {
    /// From the jars.
    Parsed,
    /// From an archive.
    Shared(PathBuf),
    /// From the jars, and into an archive when the JVM ends.
    Collected(PathBuf),
}

impl Classes {
    /// Those of this Kafka on this JVM: shared once somebody has collected them.
    pub(super) fn find(kafka: &str, java: &str) -> Result<Self, LabError> {
        let file = cache::dir()?.join(folder(kafka, java)).join(FILE);
        Ok(if file.exists() { Self::Shared(file) } else { Self::Parsed })
    }

    /// What any JVM is told of it.
    pub(super) fn shared(&self) -> Option<String> {
        match self {
            Self::Shared(file) => Some(format!("-XX:SharedArchiveFile={}", file.display())),
            Self::Parsed | Self::Collected(_) => None,
        }
    }

    /// What a broker is told beyond that.
    pub(super) fn collected(&self) -> Option<String> {
        match self {
            Self::Collected(file) => Some(format!("-XX:ArchiveClassesAtExit={}", file.display())),
            Self::Parsed | Self::Shared(_) => None,
        }
    }
}

fn folder(kafka: &str, java: &str) -> String {
    format!("kafka-{kafka}-classes-{java}")
}

impl Kafka {
    /// Collects the classes of this Kafka where that was not done yet: ten seconds, once a machine. From then on brokers
    /// and tools share them.
    pub fn share_classes(version: &str) -> Result<(), LabError> {
        let java = download::need_java()?;
        cache::install(&folder(version, &java), &cache::quiet, |dir| collect(version, dir))?;
        Ok(())
    }
}

/// One broker's life. A JVM that keeps no classes leaves the folder empty, and is not asked again.
fn collect(version: &str, dir: &Path) -> Result<(), LabError> {
    // The server's account writes it, into a folder of its own.
    let own = Temporary::new("classes", server_account()?)?;
    let file = own.path().join(FILE);
    let options = KafkaOptions { version: version.to_owned(), ..KafkaOptions::default() };
    let mut kafka = Kafka::start_from(&options, &cache::quiet, Some(&Classes::Collected(file.clone())))?;
    kafka.create_topic("classes", 1, &[])?;
    kafka.stop()?;
    if file.exists() {
        fs::copy(&file, dir.join(FILE)).map_err(LabError::io("copy", &file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// True if the JVM of the only broker has this file in its memory.
    fn maps(kafka: &Kafka, file: &Path) -> bool {
        let pid = kafka.pid(1).expect("it runs");
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
        maps.contains(file.to_str().expect("text"))
    }

    #[test]
    fn a_broker_shares_classes_and_does_without_an_archive_that_does_not_fit() {
        let options = KafkaOptions::default();
        Kafka::share_classes(&options.version).expect("collected");
        let java = download::need_java().expect("java");
        let Ok(Classes::Shared(file)) = Classes::find(&options.version, &java) else { panic!("no archive") };
        assert!(maps(&Kafka::start(options.clone()).expect("it starts"), &file));

        let own = Temporary::new("classes", server_account().expect("an account")).expect("a folder");
        let broken = own.path().join(FILE);
        fs::write(&broken, vec![7; 100_000]).expect("written");
        fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("readable");
        let kafka = Kafka::start_from(&options, &cache::quiet, Some(&Classes::Shared(broken.clone())));
        assert!(!maps(&kafka.expect("it starts all the same"), &broken));
    }
}
