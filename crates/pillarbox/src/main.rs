//! `pillarbox`: parse, run, exit code. Everything else is in the modules.

#![deny(unsafe_code)]

mod cli;
mod config;
mod dev;
mod http;
mod import;
mod log;
mod memory;
mod relay;
mod report;
mod signals;
mod tap;

use clap::Parser;

fn main() -> std::process::ExitCode {
    memory::return_large_buffers();
    let cli = cli::Cli::parse();
    let json = cli.wants_json();
    match cli.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            report::tell(&failure, json);
            std::process::ExitCode::from(failure.exit() as u8)
        }
    }
}
