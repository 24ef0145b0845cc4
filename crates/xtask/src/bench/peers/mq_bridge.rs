//! mq-bridge, from its wheel: one route from the slot to a topic. Must never be given rights that it does not need.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use pillarbox_lab::{LabError, cache};

use super::lane::Site;

const VERSION: &str = "1.2.0";
const ROUTE: &str = include_str!("../../../../../bench/peers/mq-bridge/route.yaml");
/// Runs the route until it is told to stop.
const PROGRAM: &str = "import sys; from mq_bridge import Route; Route.from_file(sys.argv[1], 'outbox').run()";

/// The folder with its modules, from the cache, filled by pip first if need be.
pub(super) fn install() -> anyhow::Result<PathBuf> {
    let name = format!("mq-bridge-{VERSION}");
    let wanted = format!("mq-bridge=={VERSION}");
    let dir = cache::install(&name, &cache::quiet, |dir| {
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(dir)
            .arg(&wanted)
            .output()
            .map_err(|error| LabError::Download { wanted: wanted.clone(), output: error.to_string() })?;
        let told = || String::from_utf8_lossy(&output.stderr).into_owned();
        let failed = || LabError::Download { wanted: wanted.clone(), output: told() };
        if output.status.success() { Ok(()) } else { Err(failed()) }
    })?;
    Ok(dir)
}

pub(super) fn configure(site: &Site) -> anyhow::Result<()> {
    let file = file(site);
    fs::write(&file, site.fill(ROUTE)).with_context(|| format!("cannot write {}", file.display()))
}

pub(super) fn command(site: &Site) -> anyhow::Result<Command> {
    let mut command = Command::new("python3");
    command.args(["-B", "-c", PROGRAM]).arg(file(site)).env("PYTHONPATH", install()?).current_dir(&site.dir);
    Ok(command)
}

fn file(site: &Site) -> PathBuf {
    site.dir.join("route.yaml")
}
