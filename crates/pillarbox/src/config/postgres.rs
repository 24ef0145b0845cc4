//! The `postgres` section: a libpq URI, or the `PG*` environment, or both.

use pillarbox_relay::config::{Postgres, Secret};
use pillarbox_relay::error::Code;

use super::problem::{Place, Problem};
use super::reader::{Context, Scalar, Section};
use super::uri::{self, Uri, UriError};

/// Longest name of a slot or publication: `NAMEDATALEN` - 1.
const NAME_BYTES_MAX: usize = 63;

/// Reads the section; `None` when something was reported.
pub(super) fn read(context: &Context<'_>, section: &Section<'_>, pipeline: &str) -> Option<Postgres> {
    let url = section.text("url");
    let password = section.text("password");
    tls(section);
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
    surroundings.ssl_mode(url.is_some());
    let user = surroundings.required("user", written.user, "PGUSER");
    let database = written.database.or_else(|| surroundings.variable("PGDATABASE")).or_else(|| user.clone());
    let host = written.host.or_else(|| surroundings.variable("PGHOST")).unwrap_or("localhost".to_owned());
    let port = written.port.or_else(|| surroundings.port()).unwrap_or(5432);
    let password = password
        .map(|scalar| scalar.text)
        .or(written.password)
        .or_else(|| surroundings.variable("PGPASSWORD"))
        .map(Secret::new);
    if !surroundings.complete {
        return None;
    }
    Some(Postgres { host, port, user: user?, password, database: database?, slot, publication })
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

/// `tls: disable` and `tls: { mode: disable }` are what this version can do.
fn tls(section: &Section<'_>) {
    use super::tree::Value;
    let hint = "remove it, or write `tls: { mode: disable }`: this version speaks plaintext only";
    let Some(node) = section.node("tls") else { return };
    let mode = match &node.value {
        Value::Map(entries) if entries.len() == 1 && entries[0].key == "mode" => &entries[0].value.value,
        value => value,
    };
    if !matches!(mode, Value::Scalar(text) if text == "disable") {
        section.unsupported_at("tls", node.place, hint);
    }
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

    /// `PGSSLMODE` counts where no URL overrides the environment.
    fn ssl_mode(&mut self, has_url: bool) {
        let Some(mode) = self.variable("PGSSLMODE").filter(|_| !has_url) else { return };
        if let Err(error) = uri::plaintext_mode(&mode) {
            self.report(error.code, "tls", &format!("PGSSLMODE: {}", error.message), "unset PGSSLMODE");
        }
    }
}
