//! Debezium's connector for Postgres in Kafka Connect, with the options that Kafka's own scripts give to a JVM.
//!
//! ```text
//! standalone:   worker file + connector file on the command line, offsets in a file      at least once
//! distributed:  worker file, connector over REST at the first start, offsets in a topic   exactly once
//! ```
//! Must never share a worker, a group or a topic between two lanes.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use pillarbox_lab::cache::quiet;
use pillarbox_lab::{connect, download, http};

use super::arm::Arm;
use super::lane::Site;

const WORKER: &str = include_str!("../../../../../bench/peers/debezium/worker.properties");
const WORKER_STANDALONE: &str =
    include_str!("../../../../../bench/peers/debezium/worker-standalone.properties");
const WORKER_TUNED: &str = include_str!("../../../../../bench/peers/debezium/worker-tuned.properties");
const WORKER_DISTRIBUTED: &str =
    include_str!("../../../../../bench/peers/debezium/worker-distributed.properties");
const CONNECTOR: &str = include_str!("../../../../../bench/peers/debezium/connector.properties");
const CONNECTOR_TUNED: &str = include_str!("../../../../../bench/peers/debezium/connector-tuned.properties");
const CONNECTOR_EXACTLY_ONCE: &str =
    include_str!("../../../../../bench/peers/debezium/connector-exactly-once.properties");

/// What `kafka-run-class` passes, and the heap that `connect-standalone` and `connect-distributed` ask for.
const JVM: [&str; 9] = [
    "-Xms256M",
    "-Xmx2G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:MaxInlineLevel=15",
    "-Djava.awt.headless=true",
];
/// Making a connector validates it against the database.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The parts of worker and connector files of an arm; later lines win.
fn parts(arm: Arm) -> (Vec<&'static str>, Vec<&'static str>) {
    match arm {
        Arm::DebeziumExactlyOnce => (
            vec![WORKER, WORKER_TUNED, WORKER_DISTRIBUTED],
            vec![CONNECTOR, CONNECTOR_TUNED, CONNECTOR_EXACTLY_ONCE],
        ),
        Arm::DebeziumTuned => {
            (vec![WORKER, WORKER_STANDALONE, WORKER_TUNED], vec![CONNECTOR, CONNECTOR_TUNED])
        }
        _ => (vec![WORKER, WORKER_STANDALONE], vec![CONNECTOR]),
    }
}

/// Fetches the jars and writes both files.
pub(super) fn configure(arm: Arm, site: &Site) -> anyhow::Result<()> {
    download::debezium_libs(connect::DEBEZIUM, connect::KAFKA, &quiet)?;
    let (worker, connector) = parts(arm);
    for (name, parts) in [("worker.properties", worker), ("connector.properties", connector)] {
        let file = site.dir.join(name);
        fs::write(&file, site.fill(&parts.concat()))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

pub(super) fn command(arm: Arm, site: &Site) -> anyhow::Result<Command> {
    let libs = download::debezium_libs(connect::DEBEZIUM, connect::KAFKA, &quiet)?;
    let standalone = arm != Arm::DebeziumExactlyOnce;
    let main = if standalone { "ConnectStandalone" } else { "ConnectDistributed" };
    let mut command = Command::new("java");
    command
        .args(JVM)
        .arg(format!("-Djava.io.tmpdir={}", site.dir.display()))
        .args(["-cp", &format!("{}/*", libs.display()), &format!("org.apache.kafka.connect.cli.{main}")])
        .arg("worker.properties")
        .args(standalone.then_some("connector.properties"))
        .current_dir(&site.dir)
        .env_remove("JAVA_TOOL_OPTIONS")
        .env_remove("CLASSPATH");
    Ok(command)
}

/// Gives the connector to a distributed worker. False while it does not answer yet.
pub(super) fn register(site: &Site) -> anyhow::Result<bool> {
    let (_, connector) = parts(Arm::DebeziumExactlyOnce);
    let text = site.fill(&connector.concat());
    let path = format!("/connectors/{}/config", site.name);
    let body = serde_json::to_string(&entries(&text))?;
    let Ok((code, answer)) = http::exchange(site.port, "PUT", &path, &body, ANSWER_MAX) else {
        return Ok(false);
    };
    // 404, 409 and 5xx: the worker is still starting or joining its group.
    let starting = code == 404 || code == 409 || code >= 500;
    ensure!(code < 300 || starting, "Connect refuses the connector ({code}): {answer}");
    Ok(code < 300)
}

/// The lines of a properties file.
fn entries(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_line_wins_and_comments_are_none() {
        let found = entries("# a=b\na=1\nb=x=y\na=2\n\n");
        assert_eq!(found, BTreeMap::from([("a", "2"), ("b", "x=y")]));
    }

    #[test]
    fn only_one_arm_is_exactly_once_and_only_the_default_polls_slowly() {
        for arm in [Arm::DebeziumDefault, Arm::DebeziumTuned, Arm::DebeziumExactlyOnce] {
            let (worker, connector) = parts(arm);
            let (worker, connector) = (worker.concat(), connector.concat());
            let (worker, connector) = (entries(&worker), entries(&connector));
            let exactly_once = arm == Arm::DebeziumExactlyOnce;
            assert_eq!(worker.contains_key("exactly.once.source.support"), exactly_once, "{arm}");
            assert_eq!(connector.contains_key("exactly.once.support"), exactly_once, "{arm}");
            assert_eq!(worker.contains_key("offset.storage.file.filename"), !exactly_once, "{arm}");
            assert_eq!(connector.contains_key("poll.interval.ms"), arm != Arm::DebeziumDefault, "{arm}");
        }
    }
}
