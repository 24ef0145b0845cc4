//! Real Postgres servers: start, SQL, stop, crash and clone, oldest and newest version.

use std::time::Duration;

use pillarbox_lab::process::{is_alive, wait_gone};
use pillarbox_lab::{LabError, Postgres, PostgresOptions, ShutdownMode};

const LIMIT: Duration = Duration::from_secs(60);

fn start_stop(version: u32) -> Result<(), LabError> {
    let mut pg = Postgres::start(PostgresOptions::version(version))?;
    let major = pg.query_one("postgres", "SELECT current_setting('server_version_num')::int / 10000")?;
    assert_eq!(major, version.to_string());
    assert_eq!(pg.query_one("postgres", "SHOW wal_level")?, "logical");
    assert_eq!(pg.query_one("postgres", "SHOW fsync")?, "on");
    pg.execute("postgres", "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)")?;
    pg.stop(ShutdownMode::Fast, LIMIT)?;
    assert!(pg.query("postgres", "SELECT 1").is_err());
    pg.start_again()?;
    assert_eq!(pg.query_one("postgres", "SELECT sum(n) FROM t")?, "3");
    Ok(())
}

#[test]
fn postgres_15_starts_and_stops() -> Result<(), LabError> {
    start_stop(15)
}

#[test]
fn postgres_18_starts_and_stops() -> Result<(), LabError> {
    start_stop(18)
}

#[test]
fn every_backend_dies_at_kill_and_committed_rows_stay() -> Result<(), LabError> {
    let mut pg = Postgres::start(PostgresOptions::default())?;
    pg.execute("postgres", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")?;
    let backend: u32 = pg
        .query_one("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")?
        .parse()
        .expect("a pid");
    let postmaster = pg.pid().expect("running");
    assert!(is_alive(backend) && is_alive(postmaster));
    pg.kill9()?;
    assert!(wait_gone(backend, Duration::ZERO) && wait_gone(postmaster, Duration::ZERO));
    pg.start_again()?;
    assert_eq!(pg.query_one("postgres", "SELECT n FROM t")?, "7");
    Ok(())
}

#[test]
fn a_clone_of_a_running_server_is_another_server_with_the_same_identity() -> Result<(), LabError> {
    let mut pg = Postgres::start(PostgresOptions::default())?;
    pg.execute("postgres", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")?;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("open");
    let copy = folder.path().join("copy");
    pg.copy_data_dir_to(&copy)?;
    let clone = Postgres::start(PostgresOptions { data_dir: Some(copy), ..PostgresOptions::default() })?;
    pg.execute("postgres", "INSERT INTO t VALUES (8)")?;
    assert_eq!(clone.query_one("postgres", "SELECT sum(n) FROM t")?, "7");
    let identity = "SELECT system_identifier FROM pg_control_system()";
    assert_eq!(clone.query_one("postgres", identity)?, pg.query_one("postgres", identity)?);
    Ok(())
}

#[test]
fn a_password_is_asked_for_where_one_is_set() -> Result<(), LabError> {
    let options =
        PostgresOptions { superuser_password: Some("s3cret@/:%".into()), ..PostgresOptions::default() };
    let pg = Postgres::start(options)?;
    assert_eq!(pg.query_one("postgres", "SELECT 1")?, "1");
    assert!(pillarbox_lab::sql::run(&pg.url("postgres", "postgres"), "SELECT 1").is_err());
    assert!(!format!("{pg:?}").contains("s3cret"));
    Ok(())
}

#[test]
fn settings_and_reload() -> Result<(), LabError> {
    let pg = Postgres::start(PostgresOptions::default().setting("max_wal_senders", "3"))?;
    assert_eq!(pg.query_one("postgres", "SHOW max_wal_senders")?, "3");
    pg.set("log_connections", "on")?;
    assert!(pg.bin("initdb")?.is_file());
    Ok(())
}

#[test]
fn a_data_folder_or_port_in_use_is_refused() -> Result<(), LabError> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("open");
    let kept =
        || PostgresOptions { data_dir: Some(folder.path().join("data")), ..PostgresOptions::default() };
    let mut pg = Postgres::start(kept())?;
    pg.execute("postgres", "CREATE TABLE t (n int)")?;
    let same_folder = Postgres::start(kept());
    assert!(matches!(&same_folder, Err(LabError::Died { output, .. }) if output.contains("postmaster.pid")));
    let same_port = Postgres::start(PostgresOptions { port: Some(pg.port()), ..PostgresOptions::default() });
    assert!(matches!(&same_port, Err(LabError::PortTaken { .. })));
    pg.stop(ShutdownMode::Immediate, LIMIT)?;
    drop(pg);
    let again = Postgres::start(kept())?;
    assert_eq!(again.query_one("postgres", "SELECT count(*) FROM t")?, "0", "kept data is there again");
    Ok(())
}
