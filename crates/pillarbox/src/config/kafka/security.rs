//! `kafka.tls` and `kafka.sasl`.

use pillarbox_relay::config::{Login, OAuth, Roots, Sasl, Tls, Verify};
use pillarbox_relay::error::Code;

use super::super::problem::Problem;
use super::super::reader::{Context, Scalar, Section};
use super::super::tls;

/// `Some(None)` = plaintext; `None` when something was reported.
pub(super) fn tls(context: &Context<'_>, section: &Section<'_>) -> Option<Option<Tls>> {
    let Some(node) = section.node("tls") else { return Some(None) };
    let written = tls::read(context, section, node)?;
    let verify = match &written.mode {
        None => Verify::Full,
        Some((word, _)) if word == "disable" => return Some(None),
        Some((word, _)) if word == "verify-full" => Verify::Full,
        Some((word, _)) if word == "verify-ca" => Verify::Chain,
        Some((_, place)) => {
            let message = "kafka.tls.mode: expected disable, verify-ca or verify-full";
            context.report(Problem::new(Code::ConfigValue, "kafka.tls.mode", message).at(Some(*place)));
            return None;
        }
    };
    let place = Some(node.place);
    let identity = tls::identity(context, "kafka.tls", place, written.certificate, written.key);
    let tls = Tls { verify, roots: written.ca.map_or(Roots::Platform, Roots::File), identity };
    tls::try_files(context, "kafka.tls", place, &tls)?;
    Some(Some(tls))
}

/// `Some(None)` = no login; `None` when something was reported.
pub(super) fn sasl(context: &Context<'_>, section: &Section<'_>) -> Option<Option<Sasl>> {
    if section.node("sasl").is_none() {
        return Some(None);
    }
    let section = section.section("sasl")?;
    let mechanism = mechanism(&section);
    let sasl = match mechanism {
        Some(Mechanism::Login(make)) => login(&section).map(make),
        Some(Mechanism::Bearer) => oauth(context, &section).map(Sasl::OAuthBearer),
        // Whatever else is in there belongs to a mechanism that is not known.
        None => return None,
    };
    section.finish();
    sasl.map(Some)
}

enum Mechanism {
    Login(fn(Login) -> Sasl),
    Bearer,
}

fn mechanism(section: &Section<'_>) -> Option<Mechanism> {
    section.required("mechanism", "write mechanism: scram-sha-512")?;
    section.parse("mechanism", |text| match text.to_ascii_lowercase().as_str() {
        "plain" => Ok(Mechanism::Login(Sasl::Plain)),
        "scram-sha-256" => Ok(Mechanism::Login(Sasl::ScramSha256)),
        "scram-sha-512" => Ok(Mechanism::Login(Sasl::ScramSha512)),
        "oauthbearer" => Ok(Mechanism::Bearer),
        _ => Err("expected plain, scram-sha-256, scram-sha-512 or oauthbearer".to_owned()),
    })
}

fn login(section: &Section<'_>) -> Option<Login> {
    let username = section.required("username", "write username: NAME");
    let password = section.required("password", "write password: ${file:/run/secrets/kafka}");
    Some(Login { username: username?.text, password: password?.text })
}

fn oauth(context: &Context<'_>, section: &Section<'_>) -> Option<OAuth> {
    let token_url = section.required("token_url", "write token_url: https://HOST/PATH");
    let client_id = section.required("client_id", "write client_id: NAME");
    let client_secret = section.required("client_secret", "write client_secret: ${file:/run/secrets/client}");
    let scope = section.text("scope").map(|scope| scope.text);
    let roots = section.text("token_ca").map(|path| Roots::File(context.outside.base.join(path.text)));
    let tls = Tls { roots: roots.unwrap_or_default(), ..Tls::default() };
    let place = token_url.as_ref().map(|url| url.place);
    tls::try_files(context, "kafka.sasl.token_ca", place, &tls)?;
    let extensions = extensions(context, section);
    let (client_id, client_secret) = (client_id?.text, client_secret?.text);
    Some(OAuth {
        token_url: url(section, token_url?)?,
        client_id,
        client_secret,
        scope,
        extensions: extensions?,
        tls,
    })
}

/// A client secret belongs into TLS; only loopback may do without.
fn url(section: &Section<'_>, scalar: Scalar) -> Option<String> {
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    let legal =
        scalar.text.starts_with("https://") || local.iter().any(|start| scalar.text.starts_with(start));
    section.parse("token_url", |text| {
        if legal { Ok(text.to_owned()) } else { Err("expected https://host/path".to_owned()) }
    })
}

/// Name and value pairs for the broker (KIP-342).
fn extensions(context: &Context<'_>, section: &Section<'_>) -> Option<Vec<(String, String)>> {
    use super::super::tree::Value;
    let Some(node) = section.node("extensions") else { return Some(Vec::new()) };
    let report = |message: &str| {
        let option = section.option("extensions");
        let message = format!("{option}{message}");
        context.report(Problem::new(Code::ConfigValue, option, message).at(Some(node.place)));
        None
    };
    let Value::Map(entries) = &node.value else { return report(" must be a map of names and values") };
    let mut list = Vec::new();
    for entry in entries {
        let value = super::super::reader::scalar(context, &section.option("extensions"), &entry.value)?.text;
        let legal = |text: &str| !text.is_empty() && text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
        let name_is_legal = entry.key.bytes().all(|byte| byte.is_ascii_alphabetic()) && entry.key != "auth";
        if !name_is_legal || !legal(&value) {
            return report(": a name has letters only (not `auth`), a value printable characters");
        }
        list.push((entry.key.clone(), value));
    }
    Some(list)
}
