//! TLS and logins against a real broker with a listener for each case: what passes, and what each mistake is called.

#[expect(dead_code, reason = "each file of tests uses a part of it")]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pillarbox_kafka::sasl::{Login, OAuth, Sasl};
use pillarbox_kafka::{Cluster, ClusterConfig, Error, admin};
use pillarbox_lab::certificates::{Authority, Issued, Validity};
use pillarbox_lab::kafka::{Listener, User};
use pillarbox_lab::{Kafka, KafkaOptions, ServerTls};
use pillarbox_tls::{Failure, Identity, Roots, Tls, Verify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PASSWORD: &str = "correct horse";
/// A client renews it after nine tenths: what is left has to outlast a pause of this machine.
const SESSION: Duration = Duration::from_secs(6);
/// What the provider says that a token lasts: it is used for a second session, and renewed for the third.
const TOKEN_LASTS: Duration = Duration::from_secs(12);

/// No test waits for longer.
const LONG: Duration = Duration::from_secs(120);

struct Site {
    kafka: Kafka,
    folder: tempfile::TempDir,
}

fn served(by: &Authority, names: &[&str], validity: Validity) -> ServerTls {
    let Issued { certificate, key } = by.server(names, validity).expect("a certificate");
    ServerTls { certificate, key, clients: Some(by.pem()) }
}

impl Site {
    fn start() -> Self {
        let authority = Authority::new("the right one").expect("an authority");
        let other = Authority::new("another").expect("an authority");
        let tls = |names: &[&str], validity| Some(served(&authority, names, validity));
        let right = tls(&["127.0.0.1"], Validity::Current);
        let user = || User { name: "relay".into(), password: PASSWORD.into() };
        let short = ("connections.max.reauth.ms".to_owned(), SESSION.as_millis().to_string());
        let options = KafkaOptions {
            listeners: vec![
                Listener { tls: right.clone(), ..Listener::new("SECURE") },
                Listener { tls: tls(&["elsewhere"], Validity::Current), ..Listener::new("ELSEWHERE") },
                Listener { tls: tls(&["127.0.0.1"], Validity::Expired), ..Listener::new("EXPIRED") },
                Listener { tls: right.clone(), demands_certificates: true, ..Listener::new("CARDED") },
                Listener { tls: right.clone(), sasl: true, plain: vec![user()], ..Listener::new("LOGIN") },
                Listener { sasl: true, plain: vec![user()], ..Listener::new("BARE") },
                Listener { tls: right, sasl: true, settings: vec![short], ..Listener::new("SHORT") },
            ],
            scram: vec![user()],
            ..KafkaOptions::default()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
        write("ca.pem", &authority.pem());
        write("other.pem", &other.pem());
        for (name, by) in [("relay", &authority), ("stranger", &other)] {
            let Issued { certificate, key } = by.client("relay").expect("a certificate");
            write(&format!("{name}.pem"), &certificate);
            write(&format!("{name}.key"), &key);
        }
        Self { kafka: Kafka::start(options).expect("Kafka"), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self, ca: &str, identity: Option<&str>) -> Option<Tls> {
        let identity = identity.map(|name| Identity {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        });
        Some(Tls { verify: Verify::Full, roots: Roots::File(self.path(ca)), identity })
    }

    fn config(&self, listener: &str, tls: Option<Tls>, sasl: Option<Sasl>) -> ClusterConfig {
        let address = match listener {
            "PLAINTEXT" => self.kafka.bootstrap(),
            name => self.kafka.listener(name).expect("a listener"),
        };
        ClusterConfig { tls, sasl, ..support::config(&address) }
    }

    /// Connects and asks something that needs the whole of it.
    async fn attempt(&self, listener: &str, tls: Option<Tls>, sasl: Option<Sasl>) -> Result<Cluster, Error> {
        let cluster = Cluster::connect(self.config(listener, tls, sasl)).await;
        if let Err(error) = &cluster {
            assert!(!format!("{error:?} {error}").contains(PASSWORD), "{error:?}");
        }
        cluster
    }
}

fn login(password: &str) -> Login {
    Login { username: "relay".into(), password: password.into() }
}

fn failure(outcome: Result<Cluster, Error>) -> Failure {
    match outcome.err().expect("a refusal") {
        Error::Tls { failure, .. } => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_passes_and_what_each_mistake_is_called() {
    let site = Site::start();
    tls_alone(&site).await;
    logins(&site).await;
    sessions_are_renewed_under_load(&site).await;
    tokens_are_fetched_kept_and_renewed(&site).await;
}

async fn tls_alone(site: &Site) {
    let right = || site.tls("ca.pem", None);
    site.attempt("SECURE", right(), None).await.expect("the right authority");
    site.attempt("CARDED", site.tls("ca.pem", Some("relay")), None).await.expect("a certificate of ours");
    let untrusted = failure(site.attempt("SECURE", site.tls("other.pem", None), None).await);
    assert!(matches!(untrusted, Failure::Untrusted { .. }), "{untrusted}");
    let elsewhere = failure(site.attempt("ELSEWHERE", right(), None).await);
    assert!(matches!(elsewhere, Failure::Name { .. }), "{elsewhere}");
    let expired = failure(site.attempt("EXPIRED", right(), None).await);
    assert!(matches!(expired, Failure::Expired { .. }), "{expired}");
    for identity in [None, Some("stranger")] {
        let refused = failure(site.attempt("CARDED", site.tls("ca.pem", identity), None).await);
        assert!(matches!(refused, Failure::Refused { .. }), "{identity:?}: {refused:?}");
    }
    let plaintext = failure(site.attempt("PLAINTEXT", right(), None).await);
    assert!(matches!(plaintext, Failure::NotTls | Failure::Closed), "{plaintext}");
    let missing = failure(site.attempt("SECURE", site.tls("absent.pem", None), None).await);
    assert!(matches!(missing, Failure::File { .. }), "{missing}");
    let chain = Tls { verify: Verify::Chain, ..right().expect("TLS") };
    site.attempt("ELSEWHERE", Some(chain.clone()), None).await.expect("whatever its name");
    let expired = failure(site.attempt("EXPIRED", Some(chain), None).await);
    assert!(matches!(expired, Failure::Expired { .. }), "{expired}");
    let other = Tls { verify: Verify::Chain, ..site.tls("other.pem", None).expect("TLS") };
    let untrusted = failure(site.attempt("ELSEWHERE", Some(other), None).await);
    assert!(matches!(untrusted, Failure::Untrusted { .. }), "{untrusted}");
    for (listener, tls) in [("SECURE", None), ("LOGIN", right()), ("BARE", None)] {
        let error = site.attempt(listener, tls, None).await.err().expect("a refusal");
        assert!(matches!(error, Error::TlsOrSaslExpected { .. }), "{listener}: {error:?}");
    }
}

async fn logins(site: &Site) {
    let tls = || site.tls("ca.pem", None);
    for make in [Sasl::Plain, Sasl::ScramSha256, Sasl::ScramSha512] {
        site.attempt("LOGIN", tls(), Some(make(login(PASSWORD)))).await.expect("the right password");
        site.attempt("BARE", None, Some(make(login(PASSWORD)))).await.expect("the right password");
        let wrong = make(login("wrong"));
        let mechanism = wrong.mechanism();
        let error = site.attempt("LOGIN", tls(), Some(wrong.clone())).await.err().expect("a refusal");
        assert!(matches!(&error, Error::Authentication { mechanism: m, .. } if *m == mechanism), "{error:?}");
        // A listener that takes no logins.
        let error = site.attempt("SECURE", tls(), Some(wrong)).await.err().expect("a refusal");
        assert!(matches!(error, Error::SaslMechanism { .. }), "{error:?}");
    }
}

/// The broker ends a connection on its first request after the end of a session: none may ever see it.
async fn sessions_are_renewed_under_load(site: &Site) {
    let sasl = Sasl::ScramSha512(login(PASSWORD));
    let cluster = site.attempt("SHORT", site.tls("ca.pem", None), Some(sasl)).await.expect("a session");
    let started = Instant::now();
    while started.elapsed() < SESSION * 5 / 2 {
        // The same connection all the time, and never a pause.
        admin::describe_topic(&cluster, "no-such-topic").await.expect("an answer");
    }
}

/// An identity provider that answers everybody who has the secret with a token. Brokers take it for longer than
/// that says, so that their sessions are all of one length.
async fn provider(asked: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/token", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let mut length = 0;
            while !String::from_utf8_lossy(&request[..length]).contains("scope=kafka%20write") {
                length += stream.read(&mut request[length..]).await.expect("a request");
            }
            let text = String::from_utf8_lossy(&request[..length]).to_lowercase();
            // relay:correct%20horse
            let (status, body) = if text.contains("authorization: basic cmvsyxk6y29ycmvjdcuymghvcnnl") {
                asked.fetch_add(1, Ordering::SeqCst);
                let lasts = TOKEN_LASTS.as_secs();
                ("200 OK", format!(r#"{{"access_token":"{}","expires_in":{lasts}}}"#, token()))
            } else {
                ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned())
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("an answer");
        }
    });
    url
}

/// A token without a signature, as the broker takes it in this test.
fn token() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let claims = format!(r#"{{"sub":"relay","iat":{now},"exp":{}}}"#, now + 60);
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims))
}

async fn tokens_are_fetched_kept_and_renewed(site: &Site) {
    let asked = Arc::new(AtomicUsize::new(0));
    let oauth = |token_url: &str, client_secret: &str| {
        Sasl::OAuthBearer(OAuth {
            token_url: token_url.to_owned(),
            client_id: "relay".into(),
            client_secret: client_secret.into(),
            scope: Some("kafka write".into()),
            extensions: Vec::new(),
            tls: Tls::default(),
        })
    };
    let tls = || site.tls("ca.pem", None);
    let url = provider(Arc::clone(&asked)).await;
    let cluster = site.attempt("SHORT", tls(), Some(oauth(&url, PASSWORD))).await.expect("a session");
    admin::describe_topic(&cluster, "no-such-topic").await.expect("an answer");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one token serves all connections");
    let started = Instant::now();
    while asked.load(Ordering::SeqCst) == 1 {
        assert!(started.elapsed() < LONG, "a token of {TOKEN_LASTS:?} is renewed");
        admin::describe_topic(&cluster, "no-such-topic").await.expect("an answer");
    }
    assert!(started.elapsed() > SESSION, "the first one is used again");
    let error = site.attempt("SHORT", tls(), Some(oauth(&url, "wrong"))).await.err().expect("a refusal");
    assert!(matches!(&error, Error::Token { why } if why.contains("401")), "{error:?}");
    let nobody = site.attempt("SHORT", tls(), Some(oauth("http://127.0.0.1:1/", PASSWORD))).await.err();
    assert!(matches!(nobody, Some(Error::Token { .. })), "{nobody:?}");
}
