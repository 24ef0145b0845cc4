//! A pipeline whose relay reaches everything through proxies.

use std::time::Duration;

use pillarbox_lab::kafka::Listener;
use pillarbox_lab::proxy::{Kind, Protocol, Proxy};
use pillarbox_lab::workload::{Workload, WorkloadOptions};
use pillarbox_lab::{KafkaOptions, PostgresOptions};

use crate::harness::dice::Dice;
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site, Way};
use crate::harness::until::until;

/// Partitions of each topic.
pub(crate) const PARTITIONS: u32 = 4;
/// How long anything that comes by itself may take on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Transactions a second.
const RATE: f64 = 60.0;
/// Events that show that it goes on.
const MORE: u64 = 60;
/// The listener behind the proxies.
pub(crate) const LISTENER: &str = "PROXIED";
/// The streams of Postgres.
pub(crate) const STREAM: [Kind; 1] = [Kind::Stream];
/// Everything else.
pub(crate) const PLAIN: [Kind; 1] = [Kind::Plain];

/// Servers, and the proxies in front of them.
pub(crate) struct Network {
    pub(crate) postgres: Proxy,
    pub(crate) brokers: Vec<Proxy>,
    pub(crate) site: Site,
}

impl Network {
    pub(crate) fn start(kafka: KafkaOptions) -> Self {
        let start = |_| Proxy::start(Protocol::Kafka).expect("a proxy");
        let brokers: Vec<Proxy> = (0..kafka.brokers).map(start).collect();
        let advertised = brokers.iter().map(Proxy::port).collect();
        let listeners = vec![Listener { advertised, ..Listener::new(LISTENER) }];
        let site = Site::start(PostgresOptions::default(), KafkaOptions { listeners, ..kafka });
        for (broker, proxy) in (1..).zip(&brokers) {
            proxy.forward_to(site.kafka.listener_port(broker, LISTENER).expect("a port"));
        }
        let postgres = Proxy::start(Protocol::Postgres).expect("a proxy");
        postgres.forward_to(site.postgres.port());
        Self { postgres, brokers, site }
    }

    /// A pipeline whose relay goes through the proxies: set up, and streaming.
    pub(crate) fn streaming(&self, more: &[&str]) -> (Configuration, Relay) {
        let [from, to] = [self.site.postgres.port(), self.postgres.port()].map(|port| format!(":{port}/"));
        let brokers: Vec<_> =
            self.brokers.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
        let way = Way { url: self.site.url().replace(&from, &to), brokers: brokers.join(",") };
        let outbox = "{ table: public.outbox }";
        let configuration = self.site.configure_by(&way, "orders", PARTITIONS, more, outbox);
        self.site.setup(&configuration);
        let mut relay = self.site.relay(&configuration);
        relay.wait_state("streaming", PATIENCE);
        (configuration, relay)
    }

    /// A second relay that goes straight to the servers and stands by.
    pub(crate) fn standby(&self) -> (Configuration, Relay) {
        let configuration = self.site.configure("orders", PARTITIONS, &[]);
        let mut relay = self.site.relay(&configuration);
        relay.wait_state("standing_by", PATIENCE);
        (configuration, relay)
    }

    /// All proxies.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.brokers.iter().chain([&self.postgres])
    }

    /// Writers that go on until they are told to stop.
    pub(crate) fn load(&self) -> (Workload, WorkloadOptions) {
        let options = WorkloadOptions {
            writers: 4,
            transactions: 1_000_000,
            events_max: 10,
            rate: Some(RATE),
            seed: Dice::new().seed(),
            ..WorkloadOptions::default()
        };
        (Workload::start(&self.site.url(), options.clone()).expect("the writers start"), options)
    }

    /// Ends the load, waits until the pipeline has confirmed it all, and compares.
    pub(crate) fn settle(&self, at: &Configuration, load: (Workload, WorkloadOptions)) {
        let (load, options) = load;
        load.stop();
        let log = load.finish().expect("the writers know what they committed");
        let caught_up = self.site.caught_up(at, PATIENCE);
        let report = self.site.judge(&log, &options, at.partitions);
        assert!(report.is_clean() && report.observed > 0, "seed {}: {report:?}", options.seed);
        println!("{} events, caught up after {caught_up:.1?}", report.events);
    }
}

/// Events go on to reach Kafka.
pub(crate) fn goes_on(relay: &mut Relay) {
    let more = relay.count("events_total") + MORE;
    relay.wait_count("events_total", more, PATIENCE);
}

/// What a fault led to, and how it was told.
pub(crate) struct Told {
    starts: u64,
    log: u64,
}

impl Told {
    /// Before the fault.
    pub(crate) fn before(relay: &Relay) -> Self {
        Self { starts: relay.count("starts_total"), log: relay.log_bytes() }
    }

    /// The relay did not stop for it.
    pub(crate) fn nothing(&self, relay: &mut Relay, name: &str) {
        let log = relay.log_from(self.log);
        assert_eq!(relay.count("starts_total"), self.starts, "{name}: it started again\n{log}");
        assert_eq!(relay.state().as_deref(), Some("streaming"), "{name}");
        println!("{name}: goes on");
    }

    /// No code stands in the log, of whatever start.
    pub(crate) fn not_a_code(&self, relay: &Relay) {
        let log = relay.log_from(self.log);
        assert!(!log.contains("PB-"), "{log}");
    }

    /// Waits until one of these codes stands in the log.
    pub(crate) fn code(&self, relay: &mut Relay, name: &str, codes: &[&str]) {
        let (code, took) = until(&format!("{name}: told {codes:?}"), PATIENCE, || {
            assert!(relay.is_running(), "{name}: the relay ended");
            let log = relay.log_from(self.log);
            codes.iter().find(|code| log.contains(**code)).copied()
        });
        println!("{name}: told {code} after {took:.1?}");
    }

    /// Waits until it streams again, in another start than before, and goes on.
    pub(crate) fn again(&self, relay: &mut Relay, name: &str) {
        let (starts, took) = until(&format!("{name}: streams again"), PATIENCE, || {
            assert!(relay.is_running(), "{name}: the relay ended");
            let starts = relay.count("starts_total");
            (starts > self.starts && relay.state().as_deref() == Some("streaming")).then_some(starts)
        });
        println!("{name}: streams again after {took:.1?}, {} starts later", starts - self.starts);
        goes_on(relay);
    }
}
