//! Who may write events: what is granted, what is not, and what `setup` and `check` say about the back door.

use pillarbox_lab::KafkaOptions;

use super::*;

const MESSAGES: &str = "messages: { prefix: outbox }";

#[test]
fn only_who_was_granted_it_emits_on_postgres_15() {
    only_who_was_granted_it_emits(15);
}

#[test]
fn only_who_was_granted_it_emits_on_postgres_18() {
    only_who_was_granted_it_emits(18);
}

fn only_who_was_granted_it_emits(version: u32) {
    let site = Site::start(PostgresOptions::version(version), KafkaOptions::default());
    let configuration = configured(&site, "orders", MESSAGES);
    let answer = site.command(&["setup"], &configuration);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let revoke = statement(&answer.stderr).or(statement(&answer.stdout)).expect("setup prints the REVOKE");
    execute(&site, "CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app");
    let as_app = |sql: &str| {
        let result = site.postgres.execute("postgres", &format!("SET SESSION AUTHORIZATION app; {sql}"));
        result.map_err(|error| format!("{error:?}"))
    };
    let emit = "SELECT pillarbox.emit('order', '1', 'made', 'granted'::text)";
    let message = "SELECT pg_logical_emit_message(true, 'outbox', '{\"aggregatetype\": \"order\"}')";

    // Before: emit() is closed, the back door is open, and check says so.
    execute(&site, "GRANT USAGE ON SCHEMA pillarbox TO app");
    for payload in ["'granted'::text", "'{}'::jsonb", "''::bytea"] {
        let refused = as_app(&emit.replace("'granted'::text", payload)).expect_err("nothing was granted");
        assert!(refused.contains("permission denied for function"), "{refused}");
    }
    as_app(&format!("BEGIN; {message}; ROLLBACK")).expect("PUBLIC may");
    let said = site.command(&["check"], &configuration).stdout;
    assert!(said.contains("PB-1022") && said.contains("can be written by every role"), "{said}");
    assert!(said.contains(&revoke), "check prints another statement than {revoke}:\n{said}");

    execute(&site, &revoke);
    execute(&site, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pillarbox TO app");
    let refused = as_app(message).expect_err("revoked");
    assert!(refused.contains("permission denied"), "{refused}");
    let said = site.command(&["check"], &configuration).stdout;
    assert!(!said.contains("can be written by every role"), "{said}");

    // After: through emit() alone; the caller's search_path and functions change nothing.
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    as_app(emit).expect("granted");
    as_app(&format!(
        "CREATE FUNCTION app.convert_to(text, name) RETURNS bytea LANGUAGE sql AS 'SELECT ''\\x58''::bytea'; \
         SET search_path = app, pg_catalog; {emit}"
    ))
    .expect("granted");
    relay.wait_count("events_total", 2, STEP_MAX);
    assert_eq!(values(&events(&site, "outbox.event.order")), ["granted", "granted"]);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}

/// The statements in a line that begins to revoke.
fn statement(text: &str) -> Option<String> {
    let at = text.find("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_logical_emit_message")?;
    text[at..].lines().next().map(|line| line.trim_end().to_owned())
}

/// What `--print-sql` prints runs as it is, and its REVOKE, uncommented, on any version.
#[test]
fn printed_sql_closes_the_back_door_on_any_version() {
    for version in [15, 18] {
        let site = Site::start(PostgresOptions::version(version), KafkaOptions::default());
        let configuration = configured(&site, "orders", MESSAGES);
        let printed = site.command(&["setup", "--print-sql"], &configuration).stdout;
        execute(&site, &printed);
        let at = printed.find("-- DO ").expect("the REVOKE");
        let lines = printed[at..].lines().take_while(|line| line.starts_with("--"));
        let revoke: String =
            lines.map(|line| format!("{}\n", line.trim_start_matches("--").trim_start())).collect();
        execute(&site, &revoke);
        execute(&site, &printed);
        let open = "SELECT has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc \
            WHERE proname = 'pg_logical_emit_message' ORDER BY 1 DESC LIMIT 1";
        assert_eq!(site.postgres.query_one("postgres", open).expect("an answer"), "f", "{revoke}");
        site.setup(&configuration);
    }
}
