//! Servers ring: the replication connection against real servers, the oldest and the newest.
//!
//! Every case waits for events of the server, never for time to pass.

mod catalog;
mod hostile;
mod refusals;
mod secured;
mod site;
mod streams;
