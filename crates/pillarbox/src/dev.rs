//! The product on a bare machine: private servers, sample traffic, the relay in this process, and a
//! real consumer that checks what arrives.
//!
//! ```text
//! shop -> Postgres -> relay (this process) -> Kafka -> consumer (own thread)
//!   \                                                    /
//!    +------------------> ledger <----------------------+
//! ```
//! Stops everything it started and nothing else. Never uses servers it did not start.

mod ledger;
mod screen;
mod servers;
mod shop;
mod task;
mod watch;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pillarbox_relay::config::Config;
use pillarbox_relay::error::{Code, ExitCode, Fault};
use pillarbox_relay::pipeline::{Ended, Options, State};
use pillarbox_relay::setup;
use tempfile::TempDir;
use tokio::sync::watch as channel;
use tokio::time::{Instant as Clock, MissedTickBehavior};

use crate::config::{Loaded, load};
use crate::relay::Relay;
use crate::report::Failure;
use crate::signals::Signals;
use ledger::Ledger;
use screen::{Moment, Screen, Setting};
use servers::{Servers, Wanted};
use watch::Watcher;

/// Where the shop's events go: `outbox.event.` and the aggregate type.
const TOPIC: &str = "outbox.event.order";

/// The shop's database.
const DATABASE: &str = "shop";

/// How often the screen changes; rates are taken over the same second.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last events may take to arrive before they count as lost.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to look whether the last events have arrived.
const ARRIVAL_INTERVAL: Duration = Duration::from_millis(20);

/// How long servers that were just started may seem unreachable.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a drain may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Where data stays for the next start; `None` = nothing stays.
    pub(crate) keep: Option<PathBuf>,
    /// Ports of HTTP, Postgres and Kafka count up from here.
    pub(crate) port: Option<u16>,
    pub(crate) events_per_second: u32,
    /// `None` = until a signal.
    pub(crate) duration: Option<Duration>,
    pub(crate) postgres_version: u32,
}

/// The ledger as the shop, the consumer and the screen share it.
#[derive(Clone)]
struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until a signal, the wished duration, or a fault.
///
/// # Errors
/// A server that does not start, a halted pipeline, or a broken guarantee.
pub(crate) async fn run(wish: Wish) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let root = Root::new(wish.keep.as_deref())?;
    let wanted = Wanted {
        postgres_version: wish.postgres_version,
        ports: wish.port.map(|port| (port.saturating_add(1), port.saturating_add(2))),
        root: root.path().to_owned(),
    };
    let servers = tokio::select! {
        started = task::start(wanted) => started?,
        // The servers die with the process.
        name = signals.next() => return Err(interrupted(name)),
    };
    let outcome = with_servers(&wish, &root, &servers, &mut signals).await;
    let stopped = signals.or_exit(task::stop(servers, wish.keep.is_some())).await;
    outcome.and(stopped)
}

fn interrupted(signal: &str) -> Failure {
    eprintln!("{signal}: stopping");
    Failure::Answered(ExitCode::TryAgain)
}

/// The folder of everything `dev` writes.
enum Root {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Root {
    fn new(keep: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            let message = "cannot make the folder for the private servers";
            Failure::from(
                Fault::new(Code::ConfigValue, message).because(error).hint("choose one with --keep DIR"),
            )
        };
        let root = match keep {
            Some(dir) => {
                std::fs::create_dir_all(dir).map_err(failed)?;
                Root::Kept(dir.canonicalize().map_err(failed)?)
            }
            None => {
                Root::Temporary(tempfile::Builder::new().prefix("pillarbox-dev-").tempdir().map_err(failed)?)
            }
        };
        // The servers may run under another account and must get in.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(root)
    }

    fn path(&self) -> &Path {
        match self {
            Root::Kept(path) => path,
            Root::Temporary(dir) => dir.path(),
        }
    }
}

async fn with_servers(
    wish: &Wish,
    root: &Root,
    servers: &Servers,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let http = http_address(wish.port)?;
    let setting = Setting {
        config_file: root.path().join("pillarbox.yaml"),
        postgres_url: servers.postgres.superuser_url(DATABASE),
        kafka: servers.kafka.bootstrap(),
        http: format!("http://{http}"),
    };
    write_config(&setting, http)?;
    prepare(servers)?;
    let loaded = load(&setting.config_file)?;
    set_up(&loaded.config).await?;
    let ledger = SharedLedger(Arc::new(Mutex::new(Ledger::new())));
    let watcher = Watcher::start(loaded.config.clone(), ledger.clone()).await?;
    let traffic = Traffic { wish, setting, ledger };
    traffic.run(loaded, watcher, signals).await
}

/// The usual port if it is free, or any; the wished one as it is.
fn http_address(port: Option<u16>) -> Result<SocketAddr, Failure> {
    let free = |port: u16| {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
        listener.local_addr()
    };
    if let Some(port) = port {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    free(8686).or_else(|_| free(0)).map_err(crate::cli::internal)
}

fn write_config(setting: &Setting, http: SocketAddr) -> Result<(), Failure> {
    let Setting { config_file, postgres_url, kafka, .. } = setting;
    let text = format!(
        "# Written by `pillarbox dev`: good as long as its servers run.\npipeline: dev\npostgres: {{ url: \
         \"{postgres_url}\" }}\nkafka:\n  brokers: [\"{kafka}\"]\n  topics: {{ partitions: 3 }}\noutbox: {{ \
         table: public.outbox }}\nhttp: {{ listen: \"{http}\" }}\n"
    );
    std::fs::write(config_file, text).map_err(|error| {
        let message = format!("cannot write {}", config_file.display());
        Fault::new(Code::ConfigUnreadable, message).because(error).into()
    })
}

/// The shop's database and its own table.
fn prepare(servers: &Servers) -> Result<(), Failure> {
    let failed = |error: pillarbox_lab::LabError| {
        Failure::from(
            Fault::new(Code::PgProtocol, format!("cannot prepare database {DATABASE}")).because(error),
        )
    };
    let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'");
    if servers.postgres.query("postgres", &exists).map_err(failed)?.is_empty() {
        servers.postgres.execute("postgres", &format!("CREATE DATABASE {DATABASE}")).map_err(failed)?;
    }
    servers.postgres.execute(DATABASE, shop::SCHEMA).map_err(failed)
}

async fn set_up(config: &Config) -> Result<(), Fault> {
    setup::apply(config, setup::Options::default(), &mut |_| {}).await.map(drop)
}

/// The relay under sample traffic.
struct Traffic<'a> {
    wish: &'a Wish,
    setting: Setting,
    ledger: SharedLedger,
}

impl Traffic<'_> {
    async fn run(&self, loaded: Loaded, mut watcher: Watcher, signals: &mut Signals) -> Result<(), Failure> {
        let options =
            Options { start_deadline: START_DEADLINE, drain_deadline: DRAIN_DEADLINE, exit_on_halt: true };
        let relay = Relay::start(loaded, options).await?;
        let (stop, stopped) = channel::channel(false);
        let rate = self.wish.events_per_second;
        let shop = shop::run(&self.setting.postgres_url, rate, &self.ledger, stopped);
        let show = async {
            let why = self.show(&relay, &mut watcher, signals).await;
            stop.send_replace(true);
            why
        };
        let (why, ()) = tokio::join!(show, shop);
        let outcome = match why {
            Why::Enough => signals.or_exit(self.settle(&relay)).await,
            Why::Fault(fault) => Err(fault.into()),
            Why::RelayEnded => Ok(()),
        };
        relay.stop();
        let ended = signals.or_exit(relay.ended()).await;
        watcher.stop();
        match ended {
            Ended::Stopped => outcome,
            Ended::Halted(fault) | Ended::Unreachable(fault) => Err(fault.into()),
        }
    }

    /// Shows a moment a second until there is a reason to stop.
    async fn show(&self, relay: &Relay, watcher: &mut Watcher, signals: &mut Signals) -> Why {
        let screen = Screen::open(self.setting.clone());
        let start = Instant::now();
        let end = self.wish.duration.map(|duration| Clock::now() + duration);
        let mut state = relay.state();
        let mut ticks = tokio::time::interval_at(Clock::now() + SHOW_INTERVAL, SHOW_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.show_moment(&screen, start, &relay.status().borrow()),
                _ = signals.next() => return Why::Enough,
                () = reached(end) => return Why::Enough,
                fault = watcher.failed() => return Why::Fault(fault),
                _ = state.wait_for(|state| matches!(state, State::Stopped | State::Halted)) => {
                    return Why::RelayEnded;
                }
            }
        }
    }

    fn show_moment(
        &self,
        screen: &Screen,
        start: Instant,
        status: &pillarbox_relay::pipeline::status::Status,
    ) {
        let now = Instant::now();
        let (pace, totals, recent) = {
            let mut ledger = self.ledger.lock();
            (ledger.tick(now), ledger.totals(), ledger.recent())
        };
        let up = now.saturating_duration_since(start);
        screen.show(&Moment { up, status, pace, totals, recent: &recent });
    }

    /// Waits for the last events, then says how it went.
    async fn settle(&self, relay: &Relay) -> Result<(), Failure> {
        let deadline = Clock::now() + ARRIVAL_TIMEOUT;
        let mut look = tokio::time::interval(ARRIVAL_INTERVAL);
        while self.ledger.lock().unseen() > 0 && Clock::now() < deadline {
            look.tick().await;
        }
        let (totals, lost) = {
            let ledger = self.ledger.lock();
            (ledger.totals(), ledger.unseen())
        };
        eprint!("{}", screen::summary(&totals, lost));
        if lost > 0 {
            // Late or lost: where the relay stands tells which.
            let status = relay.status().borrow().clone();
            eprintln!(
                "not seen within {} s; the relay is {}, confirmed {} of {}, {} events published",
                ARRIVAL_TIMEOUT.as_secs(),
                crate::http::state_word(status.state),
                status.confirmed_lsn,
                status.server_lsn,
                status.events_total
            );
        }
        if lost == 0 && totals.violations() == 0 {
            Ok(())
        } else {
            Err(Failure::Answered(ExitCode::Negative))
        }
    }
}

/// Why the show ended.
enum Why {
    Enough,
    Fault(Fault),
    RelayEnded,
}

async fn reached(end: Option<Clock>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
