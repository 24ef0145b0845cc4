//! Servers ring: the consumer's side, as installed by `setup --consumer`, on the oldest and the newest Postgres.
//!
//! ```text
//! template database (the printed SQL) -> a copy for each test -> sessions that accept, commit, roll back, wait
//! ```
//! Must never judge by what a function says where the table can be asked.

mod batch;
mod grants;
mod headers;
mod install;
mod mysql;
mod owners;
mod program;
mod redis;
mod resets;
mod rule;
mod store;
mod waits;

/// A position as the header has it.
fn hex(position: u128) -> String {
    format!("{position:032x}")
}

/// A header of pipeline `orders`.
fn pos(position: u128, sequence: i64) -> String {
    format!("orders:{}:{sequence}", hex(position))
}

/// The header of the n-th event of a log in which nothing else happens.
fn nth(n: i64) -> String {
    pos(n.try_into().expect("positive"), n)
}
