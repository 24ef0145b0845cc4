//! x
#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;
use harness::site::Site;
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use std::time::Duration;

#[test]
fn smoke() {
    let site = Site::start(PostgresOptions::version(18), KafkaOptions::default());
    let file = site.configure("orders", 8, &[]);
    site.setup(&file);
    let mut relay = site.relay(&file);
    relay.wait_state("streaming", Duration::from_secs(30));
}
