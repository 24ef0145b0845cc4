//! Options that secure the connections: where they come from, what they default to, what is wrong with them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pillarbox_relay::config::{ChannelBinding, Kafka, Postgres, Roots, Sasl, TlsMode, Verify};

use super::*;

/// A folder with an authority, a client's certificate and its key.
fn files() -> tempfile::TempDir {
    use pillarbox_lab::certificates::Authority;
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority").unwrap();
    let issued = authority.client("relay").unwrap();
    for (name, text) in
        [("ca.pem", authority.pem()), ("relay.pem", issued.certificate), ("relay.key", issued.key)]
    {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("empty.pem"), "nothing").unwrap();
    folder
}

fn read(folder: &Path, source: &str, env: &[(&str, &str)]) -> Result<Loaded, String> {
    let lookup =
        |name: &str| env.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned());
    interpret("p.yaml", source.to_owned(), Outside { env: &lookup, base: folder.to_owned() })
        .map_err(|problems| problems_for_test(&problems))
}

fn postgres(folder: &Path, section: &str, env: &[(&str, &str)]) -> Result<Postgres, String> {
    let source = SMALLEST.replace("{ url: \"postgres://pillarbox@db/shop\" }", section);
    read(folder, &source, env).map(|loaded| loaded.config.postgres)
}

#[test]
fn tls_of_postgres_from_section_url_and_environment() {
    let folder = files();
    let ca = |name: &str| Roots::File(folder.path().join(name));
    let url = |query: &str| format!("{{ url: \"postgres://u@h{query}\" }}");
    let section = |tls: &str| format!("{{ url: \"postgres://u@h?sslmode=require\", tls: {tls} }}");
    let absolute = folder.path().join("ca.pem").display().to_string();
    for (text, env, mode, verify, roots) in [
        (url(""), vec![], TlsMode::Prefer, Verify::Nothing, Roots::Platform),
        (
            url(""),
            vec![("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", &absolute)],
            TlsMode::VerifyFull,
            Verify::Full,
            ca("ca.pem"),
        ),
        (
            url("?sslmode=disable"),
            vec![("PGSSLMODE", "verify-full")],
            TlsMode::Disable,
            Verify::Nothing,
            Roots::Platform,
        ),
        (url("?sslmode=require&sslrootcert=ca.pem"), vec![], TlsMode::Require, Verify::Chain, ca("ca.pem")),
        (url("?sslrootcert=system"), vec![], TlsMode::VerifyFull, Verify::Full, Roots::Platform),
        (section("disable"), vec![], TlsMode::Disable, Verify::Nothing, Roots::Platform),
        (section("{ ca: ca.pem }"), vec![], TlsMode::Require, Verify::Chain, ca("ca.pem")),
        (
            "{ url: \"postgres://u@h\", tls: { ca: ca.pem } }".to_owned(),
            vec![("PGSSLMODE", "disable")],
            TlsMode::VerifyFull,
            Verify::Full,
            ca("ca.pem"),
        ),
        (
            section("{ mode: verify-ca, ca: ca.pem, cert: relay.pem, key: relay.key }"),
            vec![],
            TlsMode::VerifyCa,
            Verify::Chain,
            ca("ca.pem"),
        ),
    ] {
        let tls = postgres(folder.path(), &text, &env).unwrap().tls;
        assert_eq!((tls.mode, tls.secured.verify, &tls.secured.roots), (mode, verify, &roots), "{text}");
        assert_eq!(tls.secured.identity.is_some(), text.contains("cert:"), "{text}");
    }
    let bound = postgres(folder.path(), &url("?channel_binding=require"), &[]).unwrap();
    assert_eq!(bound.tls.channel_binding, ChannelBinding::Require);
}

#[test]
fn what_is_wrong_with_tls_of_postgres() {
    let folder = files();
    for (tls, words) in [
        ("full", "postgres.tls.mode: expected disable, allow, prefer, require, verify-ca or verify-full"),
        ("{ mode: full }", "postgres.tls.mode: expected disable"),
        ("{ ca: absent.pem }", "absent.pem: No such file"),
        ("{ ca: empty.pem }", "it holds no certificate in PEM form"),
        ("{ ca: ca.pem, cert: relay.pem }", "a client certificate needs both cert and key"),
        ("{ ca: ca.pem, cert: relay.pem, key: ca.pem }", "it holds no private key in PEM form"),
        ("{ ca: ca.pem, cert: ca.pem, key: relay.key }", "it does not fit"),
        ("{ ca: ca.pem, certs: x }", "did you mean `cert`?"),
        ("[a]", "postgres.tls must be a map of options, found a list"),
    ] {
        let section = format!("{{ url: \"postgres://u@h\", tls: {tls} }}");
        let text = postgres(folder.path(), &section, &[]).unwrap_err();
        assert!(text.contains(words), "{tls}: {text}");
        assert!(!text.contains("problems in"), "{tls}: one problem, told once: {text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}

#[test]
fn a_password_from_the_password_file() {
    let folder = files();
    let file = folder.path().join("pgpass");
    std::fs::write(&file, "h:5432:*:u:hunter2\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::copy(&file, home.join(".pgpass")).unwrap();
    let (file, home) = (file.display().to_string(), home.display().to_string());
    let password = |section: &str, env: &[(&str, &str)]| {
        let postgres = postgres(folder.path(), section, env).unwrap();
        postgres.password.map(|password| password.expose().to_owned())
    };
    let url = "{ url: \"postgres://u@h\" }";
    assert_eq!(password(url, &[("PGPASSFILE", &file)]).as_deref(), Some("hunter2"));
    assert_eq!(password(url, &[("HOME", &home)]).as_deref(), Some("hunter2"));
    assert_eq!(password("{ url: \"postgres://u@h?passfile=pgpass\" }", &[]).as_deref(), Some("hunter2"));
    assert_eq!(password(url, &[("PGPASSFILE", &file), ("PGPASSWORD", "first")]).as_deref(), Some("first"));
    assert_eq!(password("{ url: \"postgres://other@h\" }", &[("PGPASSFILE", &file)]), None);
    assert_eq!(password(url, &[]), None);
}

#[test]
fn tls_is_shown_as_it_is_read() {
    let folder = files();
    let section = "{ url: \"postgres://u@h?channel_binding=require\", sql: { user: u_sql }, tls: { ca: ca.pem, cert: relay.pem, key: relay.key } }";
    let source = SMALLEST.replace("{ url: \"postgres://pillarbox@db/shop\" }", section);
    let loaded = read(folder.path(), &source, &[]).unwrap();
    let yaml = serde_saphyr::to_string(&show::shown(&loaded)).unwrap();
    let again = read(Path::new("/elsewhere"), &yaml, &[]).unwrap();
    assert_eq!(format!("{again:?}"), format!("{loaded:?}"));
}

fn kafka(folder: &Path, more: &str) -> Result<Kafka, String> {
    let source = SMALLEST.replace("[\"kafka-0:9092\"] }", &format!("[\"kafka-0:9092\"], {more} }}"));
    read(folder, &source, &[]).map(|loaded| loaded.config.kafka)
}

#[test]
fn tls_and_logins_of_kafka() {
    let folder = files();
    for (more, verify, roots) in [
        ("tls: disable", None, None),
        ("tls: { mode: disable }", None, None),
        ("tls: {}", Some(Verify::Full), Some(Roots::Platform)),
        ("tls: verify-full", Some(Verify::Full), Some(Roots::Platform)),
        (
            "tls: { ca: ca.pem, cert: relay.pem, key: relay.key }",
            Some(Verify::Full),
            Some(Roots::File(folder.path().join("ca.pem"))),
        ),
        (
            "tls: { mode: verify-ca, ca: ca.pem }",
            Some(Verify::Chain),
            Some(Roots::File(folder.path().join("ca.pem"))),
        ),
    ] {
        let tls = kafka(folder.path(), more).unwrap().tls;
        assert_eq!(tls.as_ref().map(|tls| tls.verify), verify, "{more}");
        assert_eq!(tls.map(|tls| tls.roots), roots, "{more}");
    }
    for (mechanism, name) in
        [("plain", "PLAIN"), ("SCRAM-SHA-256", "SCRAM-SHA-256"), ("scram-sha-512", "SCRAM-SHA-512")]
    {
        let sasl = format!("sasl: {{ mechanism: {mechanism}, username: relay, password: hunter2 }}");
        assert_eq!(kafka(folder.path(), &sasl).unwrap().sasl.unwrap().mechanism(), name);
    }
    let sasl = "sasl: { mechanism: oauthbearer, token_url: \"https://id/token\", client_id: a, client_secret: b, scope: s, extensions: { logicalCluster: lkc-1 } }";
    let Some(Sasl::OAuthBearer(oauth)) = kafka(folder.path(), sasl).unwrap().sasl else {
        panic!("OAUTHBEARER")
    };
    assert_eq!((oauth.client_id.as_str(), oauth.scope.as_deref()), ("a", Some("s")));
    assert_eq!(oauth.extensions, [("logicalCluster".to_owned(), "lkc-1".to_owned())]);
}

#[test]
fn what_is_wrong_with_tls_and_logins_of_kafka() {
    let folder = files();
    for (more, words) in [
        ("tls: require", "kafka.tls.mode: expected disable, verify-ca or verify-full"),
        ("tls: { ca: absent.pem }", "absent.pem: No such file"),
        ("sasl: { username: a, password: b }", "kafka.sasl.mechanism is missing"),
        (
            "sasl: { mechanism: gssapi }",
            "kafka.sasl.mechanism: expected plain, scram-sha-256, scram-sha-512 or oauthbearer",
        ),
        ("sasl: { mechanism: plain, username: a }", "kafka.sasl.password is missing"),
        (
            "sasl: { mechanism: plain, username: a, password: b, scope: c }",
            "unknown option `scope` in kafka.sasl",
        ),
        (
            "sasl: { mechanism: oauthbearer, token_url: \"http://id/token\", client_id: a, client_secret: b }",
            "kafka.sasl.token_url: expected https://host/path",
        ),
        (
            "sasl: { mechanism: oauthbearer, token_url: \"https://id/\", client_id: a, client_secret: b, extensions: { auth: c } }",
            "kafka.sasl.extensions: a name has letters only",
        ),
    ] {
        let text = kafka(folder.path(), more).unwrap_err();
        assert!(text.contains(words), "{more}: {text}");
        assert!(!text.contains("problems in"), "{more}: one problem, told once: {text}");
    }
}

#[test]
fn logins_are_shown_without_their_secrets() {
    let folder = files();
    for sasl in [
        "sasl: { mechanism: scram-sha-256, username: relay, password: hunter2 }",
        "sasl: { mechanism: oauthbearer, token_url: \"https://id/token\", client_id: a, client_secret: hunter2, scope: s, token_ca: ca.pem }",
    ] {
        let more = format!("tls: {{ ca: ca.pem }}, {sasl}");
        let source = SMALLEST.replace("[\"kafka-0:9092\"] }", &format!("[\"kafka-0:9092\"], {more} }}"));
        let loaded = read(folder.path(), &source, &[]).unwrap();
        let yaml = serde_saphyr::to_string(&show::shown(&loaded)).unwrap();
        assert!(!yaml.contains("hunter2") && yaml.contains("***"), "{yaml}");
        let again = read(Path::new("/elsewhere"), &yaml, &[]).unwrap();
        assert_eq!(format!("{again:?}"), format!("{loaded:?}"));
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
}
