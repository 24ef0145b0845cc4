//! `pillarbox config validate|show`: what a file means, without connecting to anything.

use clap::{Args, Subcommand, ValueEnum};

use super::ConfigFile;
use crate::config::show;
use crate::report::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check a file and report every problem at once
    Validate(Validate),
    /// Print the configuration in effect: defaults filled in, secrets blanked
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct Validate {
    #[command(flatten)]
    file: ConfigFile,
    /// How problems look on stderr
    #[arg(short, long, value_enum, default_value_t = super::Output::Table)]
    output: super::Output,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    file: ConfigFile,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Command {
    pub(super) fn wants_json(&self) -> bool {
        match self {
            Command::Validate(arguments) => arguments.output == super::Output::Json,
            Command::Show(arguments) => arguments.output == Format::Json,
        }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Command::Validate(arguments) => arguments.run(),
            Command::Show(arguments) => arguments.run(),
        }
    }
}

impl Validate {
    fn run(self) -> Result<(), Failure> {
        let loaded = self.file.load()?;
        let tables = loaded.config.outbox.len();
        eprintln!(
            "{} is valid: pipeline {}, {tables} outbox table{}",
            self.file.config.display(),
            loaded.config.pipeline.as_str(),
            if tables == 1 { "" } else { "s" },
        );
        Ok(())
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let shown = show::shown(&self.file.load()?);
        let text = match self.output {
            Format::Json => format!("{shown:#}\n"),
            Format::Yaml => serde_saphyr::to_string(&shown).map_err(super::internal)?,
        };
        super::print(text.as_bytes())
    }
}
