//! What Postgres server to start. Must never show a password in its debug form.

use std::path::PathBuf;

use crate::secured::ServerTls;

/// What server to start. `PostgresOptions::default()` is a throw-away Postgres 18.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Major version: 15, 16, 17 or 18.
    pub version: u32,
    /// Settings beyond the lab's own (`wal_level = logical`), in order; the last one wins.
    pub settings: Vec<(String, String)>,
    /// Port on 127.0.0.1; a free one where not given.
    pub port: Option<u16>,
    /// Kept data folder, made where missing; without it a temporary one that goes with the server.
    pub data_dir: Option<PathBuf>,
    /// Password of the superuser `postgres`, who is then asked for it (SCRAM); without it all local
    /// connections are trusted.
    pub superuser_password: Option<String>,
    /// The whole of pg_hba.conf, a line each; without it what initdb writes.
    pub hba: Vec<String>,
    /// Makes the server offer TLS (`ssl = on`); whether it demands it is for `hba`.
    pub tls: Option<ServerTls>,
}

impl std::fmt::Debug for PostgresOptions {
    /// Without the password and the values of settings, which may hold one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.settings.iter().map(|(name, _)| name).collect();
        let Self { version, port, data_dir, .. } = self;
        write!(
            f,
            "PostgresOptions {{ version: {version}, port: {port:?}, data_dir: {data_dir:?}, settings: {names:?} }}"
        )
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            version: 18,
            settings: Vec::new(),
            port: None,
            data_dir: None,
            superuser_password: None,
            hba: Vec::new(),
            tls: None,
        }
    }
}

impl PostgresOptions {
    /// A throw-away server of this major version.
    pub fn version(version: u32) -> Self {
        Self { version, ..Self::default() }
    }

    /// Adds a setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}
