//! The job beside the stream: rounds for as long as the supervisor lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::rounds::{Duty, Keeper};
use crate::config::Config;
use crate::pipeline::board::Board;

/// Between two rounds: a look costs the server less than a millisecond.
const PERIOD: Duration = Duration::from_secs(5);

/// Keeps the tables small until the sender of `duty` is gone.
pub(crate) async fn run(config: Arc<Config>, mut duty: watch::Receiver<Duty>, board: Arc<Board>) {
    let mut keeper = Keeper::new(config);
    if keeper.is_idle() {
        return;
    }
    loop {
        duty.mark_unchanged();
        keeper.round(&|| *duty.borrow()).await;
        board.kept(keeper.kept());
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            changed = duty.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
