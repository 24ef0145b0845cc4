//! A private Postgres server: made, started, killed, copied.
//!
//! ```text
//! download or $PILLARBOX_LAB_PG_BIN -> initdb -> lab.conf -> postgres on 127.0.0.1:<free port> -> ready
//! ```
//! Durable by default (fsync stays on: crash tests would prove nothing without it). Must never start on a
//! data folder that another server uses, nor listen beyond loopback.

mod options;
mod standby;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

pub use self::options::PostgresOptions;
use crate::account::{Account, give, give_tree, server_account};
use crate::cache::{Progress, quiet};
use crate::folder::{self, Temporary};
use crate::process::{Launch, ServerProcess, on_path};
use crate::secured::ServerTls;
use crate::sql::{self, TextRow, literal};
use crate::{LabError, download, ports};

/// How long initdb may take: 1-2 s when idle, much longer beside two compilers.
const INITDB_MAX: Duration = Duration::from_secs(120);
/// How long a start may take, crash recovery included.
const READY_MAX: Duration = Duration::from_secs(120);
/// How often the server's own "ready" note is looked at; the wait ends at once when the server dies.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a Unix socket's path may take, less the name of the socket (`sun_path` has 108 bytes).
const SOCKET_DIR_BYTES_MAX: usize = 85;
/// Written at every start, read after postgresql.conf.
const CONF: &str = "lab.conf";

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Waits for all sessions to end.
    Smart,
    /// Ends sessions, then waits for walsenders to have sent everything.
    Fast,
    /// Stops at once; the next start recovers.
    Immediate,
}

/// A private server. Dropping it ends it and removes its temporary folder.
#[derive(Debug)]
pub struct Postgres {
    process: Option<ServerProcess>,
    options: PostgresOptions,
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    account: Option<Account>,
    // Last: removed after the process has gone.
    _temporary: Option<Temporary>,
}

impl Postgres {
    /// Starts a server and waits until it accepts connections.
    pub fn start(options: PostgresOptions) -> Result<Self, LabError> {
        Self::start_with(options, &quiet)
    }

    /// The same, telling what it is doing.
    pub fn start_with(options: PostgresOptions, progress: &dyn Fn(Progress)) -> Result<Self, LabError> {
        let account = server_account()?;
        let bin = download::postgres_bin(options.version, progress)?;
        let (data, temporary) = data_folder(&options, account)?;
        let mut server = Self { process: None, bin, data, port: 0, account, _temporary: temporary, options };
        if !server.data.join("PG_VERSION").exists() {
            progress(Progress::Preparing(server.name()));
            server.init()?;
        }
        progress(Progress::Starting(server.name()));
        server.start_again()?;
        progress(Progress::Ready(server.name()));
        Ok(server)
    }

    /// Starts a stopped or killed server again, on the same port and data, and waits until it is ready.
    pub fn start_again(&mut self) -> Result<(), LabError> {
        if self.is_running() {
            return Err(LabError::State { name: self.name(), state: "running" });
        }
        for attempt in 1.. {
            if self.port == 0 {
                self.port = match self.options.port {
                    Some(port) => port,
                    None => ports::free(1)?[0],
                };
            }
            match self.launch() {
                Ok(process) => {
                    self.process = Some(process);
                    break;
                }
                Err(LabError::PortTaken { .. })
                    if self.options.port.is_none() && attempt < ports::STARTS_MAX =>
                {
                    self.port = 0;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stops the server; gives how long that took. On a timeout it still runs: `kill9` remains.
    pub fn stop(&mut self, mode: ShutdownMode, timeout: Duration) -> Result<Duration, LabError> {
        let started = Instant::now();
        let Some(process) = self.process.as_mut() else { return Ok(Duration::ZERO) };
        process.signal(match mode {
            ShutdownMode::Smart => Signal::TERM,
            ShutdownMode::Fast => Signal::INT,
            ShutdownMode::Immediate => Signal::QUIT,
        })?;
        if process.wait(timeout)?.is_none() {
            return Err(process.timed_out("stop", timeout));
        }
        self.process = None;
        Ok(started.elapsed())
    }

    /// Kills the postmaster and every backend at one moment (SIGKILL), as a power cut would.
    pub fn kill9(&mut self) -> Result<(), LabError> {
        if let Some(mut process) = self.process.take() {
            process.kill_family()?;
        }
        Ok(())
    }

    /// Stops (SIGSTOP) or continues the postmaster and every backend.
    pub fn freeze(&mut self, frozen: bool) -> Result<(), LabError> {
        match self.process.as_mut() {
            Some(process) => process.freeze(frozen),
            None => Err(LabError::State { name: self.name(), state: "not running" }),
        }
    }

    /// Copies the data folder to `path` (which must not exist), as a storage snapshot of this moment: a
    /// running server is frozen meanwhile. The copy can be started with `PostgresOptions::data_dir`; it
    /// has the same system identifier.
    pub fn copy_data_dir_to(&mut self, path: &Path) -> Result<(), LabError> {
        let running = self.is_running();
        if running {
            self.freeze(true)?;
        }
        let copied = folder::copy_tree(&self.data, path);
        if running {
            self.freeze(false)?;
        }
        copied?;
        let left = path.join("postmaster.pid");
        if left.exists() {
            fs::remove_file(&left).map_err(LabError::io("remove", &left))?;
        }
        give_tree(path, self.account)
    }

    /// Changes a setting (ALTER SYSTEM) and reloads. Settings that need a restart wait for one.
    pub fn set(&self, setting: &str, value: &str) -> Result<(), LabError> {
        self.execute("postgres", &format!("ALTER SYSTEM SET {setting} = {}", literal(value)))?;
        self.execute("postgres", "SELECT pg_reload_conf()")
    }

    /// Runs statements in a database as superuser.
    pub fn execute(&self, database: &str, sql: &str) -> Result<(), LabError> {
        self.query(database, sql).map(|_| ())
    }

    /// Runs statements in a database as superuser and gives their rows as text.
    pub fn query(&self, database: &str, sql: &str) -> Result<Vec<TextRow>, LabError> {
        sql::run(&self.superuser_url(database), sql)
    }

    /// The first column of the first row as text; an error where there is none, or it is NULL.
    pub fn query_one(&self, database: &str, sql: &str) -> Result<String, LabError> {
        let first = self.query(database, sql)?.into_iter().next().and_then(|row| row.into_iter().next());
        first.flatten().ok_or_else(|| LabError::Sql { code: None, message: "no value".into() })
    }

    /// `postgres://user@127.0.0.1:port/database`, without a password.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// The same for the superuser, with the password from the options.
    pub fn superuser_url(&self, database: &str) -> String {
        match &self.options.superuser_password {
            Some(password) => self.url(&format!("postgres:{}", sql::percent(password)), database),
            None => self.url("postgres", database),
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The major version asked for.
    pub fn version(&self) -> u32 {
        self.options.version
    }

    /// The data folder; the Unix socket lies in it too (where its path is short enough).
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// True while the postmaster runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(ServerProcess::is_running)
    }

    /// A program of this version. The downloaded builds hold `initdb`, `pg_ctl` and `postgres`; client
    /// programs (`psql`, `pg_recvlogical`, ...) come from the PATH, of whatever version is there.
    pub fn bin(&self, name: &str) -> Result<PathBuf, LabError> {
        let own = self.bin.join(name);
        if own.is_file() {
            return Ok(own);
        }
        on_path(name).ok_or_else(|| LabError::ProgramMissing {
            name: name.to_owned(),
            hint: "it comes with the system's Postgres client package (Debian: apt install postgresql-client)",
        })
    }

    /// What errors and progress call this server.
    fn name(&self) -> String {
        format!("postgres {}", self.options.version)
    }

    /// Makes the data folder.
    fn init(&self) -> Result<(), LabError> {
        let mut command = self.command("initdb");
        command.args(["--username=postgres", "--encoding=UTF8", "--locale=C", "--no-instructions", "-D"]);
        command.arg(&self.data);
        if self.options.data_dir.is_none() {
            command.arg("--no-sync");
        }
        let password_file = self.data.with_extension("password");
        if let Some(password) = &self.options.superuser_password {
            folder::write_secret(&password_file, password, self.account)?;
            command.arg("--auth=scram-sha-256").arg("--pwfile").arg(&password_file);
        } else {
            command.arg("--auth=trust");
        }
        let log = self.data.with_extension("initdb.log");
        let launch = Launch { name: self.name(), command, log: log.clone(), account: self.account };
        let made = ServerProcess::run(launch, "initdb", INITDB_MAX);
        // Either may be missing; neither is needed any more.
        let _ = fs::remove_file(&password_file);
        let _ = fs::remove_file(&log);
        made?;
        let conf = self.data.join("postgresql.conf");
        let text = fs::read_to_string(&conf).map_err(LabError::io("read", &conf))?;
        fs::write(&conf, format!("{text}\ninclude_if_exists = '{CONF}'\n"))
            .map_err(LabError::io("write", &conf))?;
        if !self.options.hba.is_empty() {
            let hba = self.data.join("pg_hba.conf");
            fs::write(&hba, self.options.hba.join("\n") + "\n").map_err(LabError::io("write", &hba))?;
        }
        Ok(())
    }

    /// Starts the process on the chosen port and waits until it is ready.
    fn launch(&self) -> Result<ServerProcess, LabError> {
        let conf = self.data.join(CONF);
        fs::write(&conf, self.conf()).map_err(LabError::io("write", &conf))?;
        give(&conf, self.account)?;
        self.write_certificates()?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data);
        let log = self.data.join("server.log");
        let _ = fs::remove_file(&log);
        let launch = Launch { name: self.name(), command, log, account: self.account };
        let mut process = ServerProcess::start(launch)?;
        let note = self.data.join("postmaster.pid");
        let deadline = Instant::now() + READY_MAX;
        while !is_ready(&note, process.pid()) {
            if process.wait(LOOK_EVERY)?.is_some() || Instant::now() > deadline {
                return Err(process.not_ready(READY_MAX));
            }
        }
        Ok(process)
    }

    /// Shows another certificate from now on (a reload); sessions that are open keep theirs.
    pub fn serve_tls(&mut self, tls: ServerTls) -> Result<(), LabError> {
        self.options.tls = Some(tls);
        self.write_certificates()?;
        self.set("ssl", "on")
    }

    fn write_certificates(&self) -> Result<(), LabError> {
        let Some(tls) = &self.options.tls else { return Ok(()) };
        let files = [("server.crt", Some(&tls.certificate)), ("server.key", Some(&tls.key))];
        for (name, text) in files.into_iter().chain([("clients.crt", tls.clients.as_ref())]) {
            if let Some(text) = text {
                folder::write_secret(&self.data.join(name), text, self.account)?;
            }
        }
        Ok(())
    }

    /// The lab's settings, then the caller's.
    fn conf(&self) -> String {
        let short = self.data.as_os_str().len() <= SOCKET_DIR_BYTES_MAX;
        let socket_dir = if short { self.data.display().to_string() } else { String::new() };
        let lab = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &self.port.to_string()),
            ("unix_socket_directories", &socket_dir),
            ("wal_level", "logical"),
            ("shared_buffers", "64MB"),
            ("max_connections", "100"),
            // No statement of a test or a user in the log: it may hold payloads.
            ("log_min_error_statement", "panic"),
        ];
        let tls = self.options.tls.as_ref();
        let secured = tls.map(|_| ("ssl", "on"));
        let clients = tls.and_then(|tls| tls.clients.as_ref()).map(|_| ("ssl_ca_file", "clients.crt"));
        let own = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        lab.into_iter()
            .chain(secured)
            .chain(clients)
            .chain(own)
            .map(|(name, value)| format!("{name} = {}\n", literal(value)))
            .collect()
    }

    /// A program of this server with an environment that does not depend on the caller's.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_mut() {
            // An orderly end frees its shared memory; if that fails the process is killed next.
            let _ = process.signal(Signal::CONT);
            let _ = process.signal(Signal::QUIT);
            let _ = process.wait(Duration::from_secs(5));
        }
    }
}

/// True once this postmaster says so in its lock file: its process id in line 1, its state in line 8, as
/// `pg_ctl` reads it. A killed server leaves its file behind.
fn is_ready(note: &Path, pid: u32) -> bool {
    let text = fs::read_to_string(note).unwrap_or_default();
    let line = |n: usize| text.lines().nth(n).unwrap_or_default().trim();
    line(0) == pid.to_string() && matches!(line(7), "ready" | "standby")
}

/// The data folder, and the temporary folder it is in where it is not to be kept.
fn data_folder(
    options: &PostgresOptions,
    account: Option<Account>,
) -> Result<(PathBuf, Option<Temporary>), LabError> {
    if let Some(dir) = &options.data_dir {
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(LabError::io("make", dir))?;
            give(dir, account)?;
        }
        let dir = dir.canonicalize().map_err(LabError::io("find", dir))?;
        return Ok((dir, None));
    }
    let temporary = Temporary::new("pg", account)?;
    let data = temporary.path().join("data");
    fs::create_dir(&data).map_err(LabError::io("make", &data))?;
    give(&data, account)?;
    Ok((data, Some(temporary)))
}
