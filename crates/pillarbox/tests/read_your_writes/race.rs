//! An LSN that is taken before COMMIT lies before the transaction: whoever waits for it is told yes too early.

use super::world::{MODEL, World};

#[test]
fn an_lsn_before_commit_is_too_early_and_a_token_is_not() {
    for version in [15, 18] {
        let world = World::start(version);
        let (ours, others, model) =
            (world.session("postgres"), world.session("postgres"), world.session(MODEL));
        ours.run("BEGIN; SAVEPOINT before");
        ours.emit("refused");
        let refused = ours.try_run("SELECT pillarbox.token()").expect_err("it has written and not committed");
        let refused = refused.as_db_error().expect("the server refuses");
        assert_eq!(refused.code().code(), "25001");
        assert!(refused.hint().is_some_and(|hint| hint.contains("after COMMIT")));
        ours.run("ROLLBACK TO before");
        let id = ours.emit("ours");
        // What token() would give, without its refusal.
        let naive = ours
            .one("SELECT system_identifier || ':1:' || pg_current_wal_insert_lsn() FROM pg_control_system()");
        // Another transaction commits in between, and all of it goes its way.
        let other = others.emit("other");
        let early = world.arrived(&format!("token={naive}&wait=60"));
        let early = early["receipt"].as_str().expect("a receipt");
        world.consume();
        assert!(model.applied(early), "whoever waits for {early} is told that it is applied");
        assert!(model.has(&other) && !model.has(&id), "and it is not");

        ours.run("COMMIT");
        let token = ours.token();
        let receipt = world.arrived(&format!("token={token}&wait=60"));
        let receipt = receipt["receipt"].as_str().expect("a receipt");
        assert!(!model.applied(receipt), "the event is in Kafka, the consumer has not come to it");
        world.consume();
        assert_eq!(model.one(&format!("SELECT pillarbox.wait('{receipt}', 'shipping', '60 s')")), "true");
        assert!(model.has(&id));
    }
}
