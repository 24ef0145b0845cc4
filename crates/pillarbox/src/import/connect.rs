//! A connector as Kafka Connect's REST interface tells it: its configuration, how it is, how far it has come.
//!
//! Reads three addresses and changes nothing. An error never repeats the address's credentials or an answer's text.

use base64::Engine;
use pillarbox_relay::error::{Code, ExitCode, Fault};
use pillarbox_wire::lsn::Lsn;
use serde_json::Value;

use super::source::{self, Connector};
use crate::config::problem::Problems;
use crate::http::client::{self, Answer};
use crate::report::Failure;

/// Where Kafka Connect listens if the URL does not say.
const PORT: u16 = 8083;

/// The address of a connector.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
    path: String,
    /// `Authorization: Basic ...`, ready to send.
    login: Option<String>,
}

/// A connector and what its worker says of it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) connector: Connector,
    /// The address without credentials.
    pub(crate) from: String,
    pub(crate) notes: Vec<String>,
}

impl Address {
    /// Reads `http://host:8083/connectors/NAME`; `None` where the text is no URL at all.
    ///
    /// # Errors
    /// It is a URL that cannot be asked.
    pub(crate) fn parse(url: &str) -> Option<Result<Self, Fault>> {
        let (scheme, rest) = url.split_once("://")?;
        Some(Self::of(scheme, rest).ok_or_else(|| {
            let hint = "write http://host:8083/connectors/NAME, or save it: curl -s URL > connector.json";
            Fault::new(Code::ConfigUnreadable, "this URL cannot be asked for a connector").hint(hint)
        }))
    }

    fn of(scheme: &str, rest: &str) -> Option<Self> {
        let (authority, path) = rest.split_once('/')?;
        let name = path.trim_end_matches('/').strip_prefix("connectors/")?;
        // `/config` and the like are asked by ourselves.
        let name = name.split('/').next().filter(|name| !name.is_empty())?;
        let (login, address) = authority.rsplit_once('@').map_or((None, authority), |(l, a)| (Some(l), a));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (address, PORT),
        };
        let sendable = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        let legal = scheme == "http" && sendable(host) && sendable(name);
        let encoded = login.map(|login| base64::engine::general_purpose::STANDARD.encode(login));
        legal.then(|| Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            path: format!("/connectors/{name}"),
            login: encoded.map(|login| format!("Authorization: Basic {login}\r\n")),
        })
    }

    fn shown(&self) -> String {
        format!("http://{}:{}{}", self.host, self.port, self.path)
    }

    async fn get(&self, more: &str) -> Result<Answer, Fault> {
        let path = format!("{}{more}", self.path);
        let login = self.login.as_deref().unwrap_or_default();
        let answer = client::get_from(&self.host, self.port, &path, login).await;
        answer.map_err(|error| {
            let message = format!("cannot ask Kafka Connect at {}:{}", self.host, self.port);
            let hint = "save the connector instead: curl -s URL > connector.json, then import the file";
            Fault::new(Code::ConfigUnreadable, message).because(error).hint(hint)
        })
    }
}

/// Asks for a connector.
///
/// # Errors
/// Kafka Connect does not answer, does not know the connector, or tells something else.
pub(crate) async fn read(address: &Address) -> Result<Live, Failure> {
    let unavailable = |fault| Failure::Exit(fault, ExitCode::Unavailable);
    let answer = address.get("").await.map_err(unavailable)?;
    if answer.status != 200 {
        let message = format!("Kafka Connect answers {} for {}", answer.status, address.shown());
        let hint = "404: no connector of that name; 401: put user:password@ before the host";
        return Err(Failure::Fault(Fault::new(Code::ConfigUnreadable, message).hint(hint)));
    }
    let text = String::from_utf8_lossy(&answer.body);
    let connector = source::parse(&text).map_err(|problem| Problems {
        file: address.shown(),
        source: String::new(),
        list: vec![problem],
    })?;
    // Older workers know no offsets; a worker may die in between: what is known is told.
    let status = address.get("/status").await.ok();
    let offsets = address.get("/offsets").await.ok();
    let notes = [status.and_then(|answer| state(&answer)), offsets.and_then(|answer| offset(&answer))];
    Ok(Live { connector, from: address.shown(), notes: notes.into_iter().flatten().collect() })
}

fn state(answer: &Answer) -> Option<String> {
    let status: Value = serde_json::from_slice(&answer.body).ok()?;
    let state = status["connector"]["state"].as_str()?;
    let tasks = status["tasks"].as_array().into_iter().flatten();
    let tasks: Vec<&str> = tasks.filter_map(|task| task["state"].as_str()).collect();
    let tasks = if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") };
    let todo = match state {
        "STOPPED" => "its slot is free",
        _ => "stop it (PUT .../stop) before `pillarbox setup --adopt-slot`",
    };
    Some(format!("the connector is {state} (tasks: {tasks}); {todo}"))
}

fn offset(answer: &Answer) -> Option<String> {
    let offsets: Value = serde_json::from_slice(&answer.body).ok()?;
    let offset = &offsets["offsets"].as_array()?.first()?["offset"];
    let lsn = |name: &str| offset[name].as_u64().map(|lsn| Lsn(lsn).to_string());
    let event = lsn("lsn")?;
    let open = match offset["messageType"].as_str() {
        None | Some("COMMIT") => "",
        Some(_) => "; it has not confirmed the transaction of that event, which would be sent again",
    };
    Some(format!("the connector's offset is at {event}{open}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let shown = |url: &str| Address::parse(url).unwrap().map(|address| address.shown()).ok();
        for (url, expected) in [
            ("http://h:8083/connectors/c", Some("http://h:8083/connectors/c")),
            ("http://h/connectors/c/config", Some("http://h:8083/connectors/c")),
            ("http://u:hunter2@[::1]:1/connectors/c/", Some("http://::1:1/connectors/c")),
            ("https://h/connectors/c", None),
            ("http://h/connectors/", None),
            ("http://h/", None),
            ("http://h:x/connectors/c", None),
            ("http://h/connectors/a b", None),
        ] {
            assert_eq!(shown(url).as_deref(), expected, "{url}");
        }
        assert!(Address::parse("connector.json").is_none());
        let login = Address::parse("http://u:p@h/connectors/c").unwrap().unwrap().login;
        assert_eq!(login.as_deref(), Some("Authorization: Basic dTpw\r\n"));
    }

    #[test]
    fn answers() {
        let answer = |text: &str| Answer { status: 200, body: text.as_bytes().to_vec() };
        let running =
            r#"{"connector":{"state":"RUNNING"},"tasks":[{"id":0,"state":"FAILED","trace":"hunter2"}]}"#;
        let told = state(&answer(running)).unwrap();
        assert!(told.contains("RUNNING (tasks: FAILED)") && told.contains("stop it"), "{told}");
        assert!(!told.contains("hunter2"));
        for (kind, told) in [("COMMIT", ""), ("INSERT", "; it has not confirmed the transaction")] {
            let known = format!(
                r#"{{"offsets":[{{"partition":{{}},"offset":{{"lsn":24023128,"messageType":"{kind}"}}}}]}}"#
            );
            let found = offset(&answer(&known)).unwrap();
            assert!(found.starts_with(&format!("the connector's offset is at 0/16E9058{told}")), "{found}");
        }
        for nothing in [r#"{"offsets":[]}"#, "nothing", r#"{"error_code":404}"#] {
            assert_eq!((state(&answer(nothing)), offset(&answer(nothing))), (None, None), "{nothing}");
        }
    }
}
