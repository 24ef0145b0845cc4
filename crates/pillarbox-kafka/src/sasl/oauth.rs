//! Tokens of an identity provider by client credentials (RFC 6749, 4.4), for OAUTHBEARER (RFC 7628).
//!
//! ```text
//! message --kept and fresh--> n,,auth=Bearer ..
//!         --else--> POST token_url --> keep it, for four fifths of its life
//! ```
//! One request at a time, whoever asks meanwhile waits for its answer. Redirects are not followed: they could lead
//! the secret elsewhere. Must never show a token, a secret, or what the provider answered.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pillarbox_tls::{Failure, Tls};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::error::Error;

/// Largest answer of a provider: tokens have a few KiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Life of a token whose provider does not say (RFC 6749 only recommends it).
const LIFE_UNSAID: Duration = Duration::from_secs(300);

/// Where tokens come from, and what for.
#[derive(Clone, PartialEq, Eq)]
pub struct OAuth {
    /// The provider's token endpoint, `https://host/path`.
    pub token_url: String,
    /// Who asks.
    pub client_id: String,
    /// By what right.
    pub client_secret: String,
    /// What for, if the provider wants to know.
    pub scope: Option<String>,
    /// SASL extensions for the broker, name and value.
    pub extensions: Vec<(String, String)>,
    /// Whom we trust to be the provider.
    pub tls: Tls,
}

impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token_url, client_id, scope, .. } = self;
        write!(f, "OAuth {{ token_url: {token_url:?}, client_id: {client_id:?}, scope: {scope:?} }}")
    }
}

struct Token {
    value: String,
    refresh_at: Instant,
}

/// Keeps a token until it is due.
pub(super) struct TokenSource {
    oauth: OAuth,
    kept: tokio::sync::Mutex<Option<Token>>,
}

impl TokenSource {
    pub(super) fn new(oauth: OAuth) -> Self {
        Self { oauth, kept: tokio::sync::Mutex::default() }
    }

    /// The client's first message.
    pub(super) async fn message(&self) -> Result<Vec<u8>, Error> {
        let mut kept = self.kept.lock().await;
        let token = match kept.take() {
            Some(token) if token.refresh_at > Instant::now() => token,
            _ => fetch(&self.oauth).await?,
        };
        let token = kept.insert(token);
        let extensions: String =
            self.oauth.extensions.iter().map(|(name, value)| format!("{name}={value}\x01")).collect();
        Ok(format!("n,,\x01auth=Bearer {}\x01{extensions}\x01", token.value).into_bytes())
    }
}

fn failed(why: impl fmt::Display) -> Error {
    Error::Token { why: why.to_string() }
}

async fn fetch(oauth: &OAuth) -> Result<Token, Error> {
    let uri: Uri = oauth.token_url.parse().map_err(|_| failed("token_url is not a URL"))?;
    let host = uri.host().ok_or_else(|| failed("token_url names no host"))?;
    let secured = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(failed("token_url must begin with https://")),
    };
    let port = uri.port_u16().unwrap_or(if secured { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let unreachable =
        |error: std::io::Error| failed(format!("{host}:{port} cannot be reached: {}", error.kind()));
    let asked = Instant::now();
    let stream = TcpStream::connect((bare, port)).await.map_err(unreachable)?;
    let body = if secured {
        let refused = |failure: Failure| failed(format!("{host}:{port}: {failure}"));
        let name = pillarbox_tls::server_name(bare).map_err(refused)?;
        let connector = tokio_rustls::TlsConnector::from(oauth.tls.client_config().map_err(refused)?);
        let stream = connector.connect(name, stream).await;
        let stream = stream
            .map_err(|error| Failure::of_handshake(&error).map_or_else(|| unreachable(error), refused))?;
        post(stream, request(oauth, &uri)?).await?
    } else {
        post(stream, request(oauth, &uri)?).await?
    };
    parse(&body, asked)
}

fn request(oauth: &OAuth, uri: &Uri) -> Result<Request<Full<Bytes>>, Error> {
    let login = format!("{}:{}", encode(&oauth.client_id), encode(&oauth.client_secret));
    let scope = oauth.scope.as_ref().map(|scope| format!("&scope={}", encode(scope))).unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", authority)
        .header("authorization", format!("Basic {}", BASE64.encode(login)))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .header("connection", "close")
        .body(Full::from(format!("grant_type=client_credentials{scope}")))
        .map_err(|_| failed("the request cannot be written"))
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, Error> {
    let broken = |_| failed("the provider broke off");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = std::pin::pin!(async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(failed(format!("the provider answers {}", response.status())));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(body.map_err(|_| failed("the provider's answer is cut or too long"))?.to_bytes())
    });
    // The connection may end first; what it has read is kept for the answer.
    match select(answer, std::pin::pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

fn parse(body: &[u8], asked: Instant) -> Result<Token, Error> {
    let unfit = || failed("the provider's answer holds no access_token");
    let answer: serde_json::Value = serde_json::from_slice(body).map_err(|_| unfit())?;
    let value = answer["access_token"].as_str().ok_or_else(unfit)?.to_owned();
    // A line or a separator in it could add fields to the message.
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unfit());
    }
    let life = answer["expires_in"].as_u64().map_or(LIFE_UNSAID, Duration::from_secs);
    Ok(Token { value, refresh_at: asked + life / 5 * 4 })
}

/// What a form may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_providers() {
        let asked = Instant::now();
        let token =
            parse(br#"{"access_token":"a.b.c","token_type":"Bearer","expires_in":100}"#, asked).unwrap();
        assert_eq!((token.value.as_str(), token.refresh_at - asked), ("a.b.c", Duration::from_secs(80)));
        assert!(parse(br#"{"access_token":"abc"}"#, asked).unwrap().refresh_at > asked);
        for body in [r#"{"error":"invalid_client"}"#, "hunter2", "", r#"{"access_token":"a\u0001auth=b"}"#] {
            let error = parse(body.as_bytes(), asked).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
