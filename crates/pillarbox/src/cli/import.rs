//! `pillarbox import debezium`: a connector's configuration becomes `pillarbox.yaml`.
//!
//! The YAML is data; with `-o FILE` it goes there and the report becomes the data. Exit code 1: the file is written, but
//! something that decides about events could not be followed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pillarbox_relay::error::{Code, ExitCode, Fault};

use crate::config::problem::Problems;
use crate::import::connect::{self, Address, Live};
use crate::import::{Choices, import, report, source};
use crate::report::Failure;

/// Longest file: a connector has a few hundred keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A Debezium connector with an outbox router: its JSON, properties, or address in Kafka Connect
    Debezium(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Connector JSON, Debezium Server properties, or http://host:8083/connectors/NAME
    #[arg(value_name = "FILE|URL")]
    connector: String,
    /// Write the YAML to this file, and the report to stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long, requires = "output")]
    force: bool,
    /// A broker to start from; a connector has none
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    kafka: Vec<String>,
    /// Name of the pipeline [default: the connector's name]
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// An outbox table, where the connector's list is a pattern
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: Vec<String>,
    /// Leave keys out that nobody knows
    #[arg(long)]
    lenient: bool,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Command::Debezium(arguments) = self;
        match Address::parse(&arguments.connector) {
            None => {
                let live = read(&arguments.connector)?;
                arguments.write(live)
            }
            Some(address) => {
                let address = address?;
                super::block_on(async move { arguments.write(connect::read(&address).await?) })
            }
        }
    }
}

impl Arguments {
    fn write(self, live: Live) -> Result<(), Failure> {
        let choices = Choices {
            brokers: self.kafka,
            pipeline: self.pipeline,
            tables: self.table,
            lenient: self.lenient,
        };
        let mut imported = import(&live.connector, &choices, &live.from)?;
        imported.notes.extend(live.notes);
        let told = report(&imported);
        match &self.output {
            Some(file) => {
                save(file, &imported.yaml, self.force)?;
                super::print(told.as_bytes())?;
            }
            None => {
                eprint!("{told}");
                super::print(imported.yaml.as_bytes())?;
            }
        }
        if imported.falls_short() { Err(Failure::Answered(ExitCode::Negative)) } else { Ok(()) }
    }
}

fn read(file: &str) -> Result<Live, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::Fault(Fault::new(Code::ConfigUnreadable, format!("cannot read {file}")).because(error))
    };
    let mut text = String::new();
    let limited = File::open(file).map_err(unreadable)?.take(FILE_BYTES_MAX);
    { limited }.read_to_string(&mut text).map_err(unreadable)?;
    let problems = |problem| Problems { file: file.to_owned(), source: String::new(), list: vec![problem] };
    let connector = source::parse(&text).map_err(problems)?;
    Ok(Live { connector, from: file.to_owned(), notes: Vec::new() })
}

fn save(file: &Path, yaml: &str, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(true);
    if force {
        options.create(true)
    } else {
        options.create_new(true)
    };
    let written = options.open(file).and_then(|mut file| file.write_all(yaml.as_bytes()));
    written.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "--force overwrites it",
            _ => "name another file with -o",
        };
        let message = format!("cannot write {}", file.display());
        Failure::Fault(Fault::new(Code::ConfigUnreadable, message).because(error).hint(hint))
    })
}
