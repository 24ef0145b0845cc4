//! The `postgres` section: a libpq URI, or the `PG*` environment, or both; `tls` wins over either.

use std::path::{Path, PathBuf};

use pillarbox_relay::config::{ChannelBinding, Postgres, PostgresTls, Secret, SqlRole, TlsMode};
use pillarbox_relay::error::Code;

use super::problem::{Place, Problem};
use super::reader::{Context, Scalar, Section};
use super::uri::{self, Uri, UriError};
use super::{pgpass, tls};

/// Longest name of a slot or publication: `NAMEDATALEN` - 1.
const NAME_BYTES_MAX: usize = 63;

/// Reads the section; `None` when something was reported.
pub(super) fn read(context: &Context<'_>, section: &Section<'_>, pipeline: &str) -> Option<Postgres> {
    let url = section.text("url");
    let password = section.text("password");
    let secured = section.node("tls").map(|node| (node.place, tls::read(context, section, node)));
    let sql = sql_role(section);
    let slot = section.parse("slot", slot_name).unwrap_or_else(|| format!("pillarbox_{pipeline}"));
    let publication =
        section.parse("publication", publication_name).unwrap_or_else(|| format!("pillarbox_{pipeline}"));
    let written = match &url {
        Some(scalar) => written(context, section, scalar)?,
        None => Uri::default(),
    };
    let place = url.as_ref().map(|scalar| scalar.place);
    let mut surroundings = Surroundings { context, section, place, complete: true };
    if written.password.is_some() && password.is_some() {
        let message = "the password is given twice: in postgres.url and in postgres.password";
        surroundings.report(Code::ConfigValue, "password", message, "keep postgres.password");
    }
    let secured = surroundings.tls(&written, secured);
    let user = surroundings.required("user", written.user, "PGUSER");
    let database = written.database.or_else(|| surroundings.variable("PGDATABASE")).or_else(|| user.clone());
    let host = written.host.or_else(|| surroundings.variable("PGHOST")).unwrap_or("localhost".to_owned());
    let port = written.port.or_else(|| surroundings.port()).unwrap_or(5432);
    let password = password
        .map(|scalar| scalar.text)
        .or(written.password)
        .or_else(|| surroundings.variable("PGPASSWORD"));
    if !surroundings.complete {
        return None;
    }
    let (user, database) = (user?, database?);
    let file = surroundings.password_file(written.password_file);
    let look_up = |user: &str| {
        pgpass::look_up(file.as_ref()?, &pgpass::Login { host: &host, port, database: &database, user })
    };
    let password = password.or_else(|| look_up(&user)).map(Secret::new);
    let sql = sql?.map(|role| SqlRole {
        password: role.password.or_else(|| look_up(&role.user).map(Secret::new)),
        user: role.user,
    });
    Some(Postgres { host, port, user, password, database, slot, publication, tls: secured?, sql })
}

/// Reads the URL, or reports what is wrong with it without repeating it.
fn written(context: &Context<'_>, section: &Section<'_>, scalar: &Scalar) -> Option<Uri> {
    Uri::parse(&scalar.text)
        .map_err(|UriError { code, message }| {
            let option = section.option("url");
            context
                .report(Problem::new(code, &option, format!("{option}: {message}")).at(Some(scalar.place)));
        })
        .ok()
}

/// `Some(None)` = the same role.
fn sql_role(section: &Section<'_>) -> Option<Option<SqlRole>> {
    if section.node("sql").is_none() {
        return Some(None);
    }
    let section = section.section("sql")?;
    let user = section.required("user", "write user: pillarbox_sql");
    let password = section.text("password").map(|password| Secret::new(password.text));
    section.finish();
    Some(Some(SqlRole { user: user?.text, password }))
}

fn slot_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(legal) {
        return Err(format!("expected 1 to {NAME_BYTES_MAX} of a-z 0-9 _"));
    }
    Ok(text.to_owned())
}

fn publication_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains('\0') {
        return Err(format!("expected a name of 1 to {NAME_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

/// The `PG*` environment, and where its problems are reported.
struct Surroundings<'a> {
    context: &'a Context<'a>,
    section: &'a Section<'a>,
    place: Option<Place>,
    complete: bool,
}

impl Surroundings<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (self.context.outside.env)(name).filter(|value| !value.is_empty())
    }

    fn report(&mut self, code: Code, key: &str, message: &str, hint: &str) {
        let option = self.section.option(key);
        self.context.report(Problem::new(code, option, message).at(self.place).hint(hint));
        self.complete = false;
    }

    fn required(&mut self, what: &str, written: Option<String>, variable: &str) -> Option<String> {
        let value = written.or_else(|| self.variable(variable));
        if value.is_none() {
            let message = format!("postgres.url names no {what}, and {variable} is not set");
            self.report(Code::ConfigValue, "url", &message, "write postgres://user@host:5432/database");
        }
        value
    }

    fn port(&mut self) -> Option<u16> {
        let text = self.variable("PGPORT")?;
        uri::parse_port(&text)
            .map_err(|error| {
                self.report(error.code, "url", &format!("PGPORT: {}", error.message), "export PGPORT=5432");
            })
            .ok()
    }

    /// The file that libpq would look up a password in.
    fn password_file(&self, written: Option<String>) -> Option<PathBuf> {
        let written = written.map(|path| self.context.outside.base.join(path));
        let named = written.or_else(|| self.variable("PGPASSFILE").map(PathBuf::from));
        named.or_else(|| self.variable("HOME").map(|home| Path::new(&home).join(".pgpass")))
    }

    /// The section, the URL and the environment, in this order, option by option.
    fn tls(&mut self, url: &Uri, section: Option<(Place, Option<tls::Written>)>) -> Option<PostgresTls> {
        let place = section.as_ref().map_or(self.place, |(place, _)| Some(*place));
        let has_section = section.is_some();
        let section = match section {
            Some((_, section)) => section?,
            None => tls::Written::default(),
        };
        let path = |written: Option<PathBuf>, url: &Option<String>, variable| {
            let url = || url.as_ref().map(|path| self.context.outside.base.join(path));
            written.or_else(url).or_else(|| self.variable(variable).map(PathBuf::from))
        };
        // libpq's word for the authorities of the platform.
        let named = url.ca.clone().or_else(|| self.variable("PGSSLROOTCERT"));
        let system = section.ca.is_none() && named.as_deref() == Some("system");
        let ca = path(section.ca, &url.ca, "PGSSLROOTCERT");
        let certificate = path(section.certificate, &url.certificate, "PGSSLCERT");
        let key = path(section.key, &url.key, "PGSSLKEY");
        let identity = tls::identity(self.context, "postgres.tls", place, certificate, key);
        // Whoever writes a section wants the whole, not what libpq does by default.
        let default = if has_section || system { TlsMode::VerifyFull } else { TlsMode::default() };
        let mode = self.mode(section.mode, url, has_section)?.unwrap_or(default);
        let mut tls = PostgresTls::new(mode, ca.filter(|_| !system), identity);
        tls.channel_binding = self.channel_binding(url)?;
        if mode != TlsMode::Disable {
            tls::try_files(self.context, "postgres.tls", place, &tls.secured)?;
        }
        Some(tls)
    }

    /// A section that says nothing of it is not weakened by the environment.
    fn mode(
        &mut self,
        written: Option<(String, Place)>,
        url: &Uri,
        has_section: bool,
    ) -> Option<Option<TlsMode>> {
        let Some((word, place)) = written else {
            return match (url.tls_mode, self.variable("PGSSLMODE")) {
                (None, Some(word)) if !has_section => self.word("PGSSLMODE", &word).map(Some),
                (mode, _) => Some(mode),
            };
        };
        word.parse()
            .map(Some)
            .map_err(|expected: String| {
                let message = format!("postgres.tls.mode: {expected}");
                self.context
                    .report(Problem::new(Code::ConfigValue, "postgres.tls.mode", message).at(Some(place)));
            })
            .ok()
    }

    fn channel_binding(&mut self, url: &Uri) -> Option<ChannelBinding> {
        match (url.channel_binding, self.variable("PGCHANNELBINDING")) {
            (None, Some(word)) => self.word("PGCHANNELBINDING", &word),
            (binding, _) => Some(binding.unwrap_or_default()),
        }
    }

    /// A variable that is one of a few words.
    fn word<T: std::str::FromStr<Err = String>>(&mut self, variable: &str, value: &str) -> Option<T> {
        uri::word(variable, value)
            .map_err(|error| self.report(error.code, "tls", &error.message, &format!("unset {variable}")))
            .ok()
    }
}
