//! A port that does not speak plaintext Kafka gives a clear error in time, never a hang.

use std::time::{Duration, Instant};

use pillarbox_kafka::{Cluster, ClusterConfig, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Below the limit of an ordinary request, 30 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a foreign server does with the first bytes it gets.
#[derive(Clone, Copy)]
enum Server {
    Says(&'static [u8]),
    HangsUp,
    IsSilent,
}

async fn serve(server: Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0, "it speaks first");
            match server {
                Server::Says(bytes) => stream.write_all(bytes).await.unwrap(),
                Server::HangsUp => drop(stream),
                Server::IsSilent => held.push(stream),
            }
        }
    });
    address
}

async fn error_of(address: &str, connect_timeout: Duration) -> (Error, Duration) {
    let started = Instant::now();
    let config = ClusterConfig { connect_timeout, ..ClusterConfig::new([address]) };
    (Cluster::connect(config).await.err().expect("no cluster here"), started.elapsed())
}

#[tokio::test]
async fn foreign_servers_are_named() {
    // Correlation, code, two thousand million versions.
    let bomb = b"\0\0\0\x10\xff\xff\xff\xff\0\0\x7f\xff\xff\xff\0\0\0\0\0\0";
    let older = b"\0\0\0\x10\xff\xff\xff\xff\0\x23\x7f\xff\xff\xff\0\0\0\0\0\0";
    let flexible = b"\0\0\0\x10\xff\xff\xff\xff\0\0\xff\xff\xff\xff\x0f\0\0\0\0\0";
    let cases: [(&str, Server); 8] = [
        ("a TLS alert", Server::Says(&[0x15, 3, 3, 0, 2, 2, 0x46])),
        ("HTTP", Server::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("a negative length", Server::Says(&[0xff; 16])),
        ("a short answer", Server::Says(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("hangs up", Server::HangsUp),
        ("a length bomb", Server::Says(bomb)),
        ("a length bomb in the oldest version", Server::Says(older)),
        ("a length bomb in the newest version", Server::Says(flexible)),
    ];
    for (name, server) in cases {
        let broker = serve(server).await;
        let (error, _) = error_of(&broker, PATIENCE).await;
        assert_eq!(error, Error::TlsOrSaslExpected { broker }, "{name}");
        assert!(!error.is_retriable() && !error.is_unreachable());
    }
}

#[tokio::test]
async fn a_silent_server_costs_the_connect_timeout_and_no_more() {
    let broker = serve(Server::IsSilent).await;
    let (error, took) = error_of(&broker, Duration::from_millis(300)).await;
    assert!(error.is_unreachable(), "{error}");
    assert!(took < PATIENCE, "{took:?}");
}

#[tokio::test]
async fn an_address_without_a_port_is_a_mistake_not_an_outage() {
    let (error, _) = error_of("localhost", PATIENCE).await;
    assert_eq!(error, Error::BrokerAddress { address: "localhost".to_owned() });
}

#[tokio::test]
async fn nobody_listens() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (error, _) = error_of(&address, PATIENCE).await;
    assert!(error.is_unreachable(), "{error}");
}
