//! The example of `examples/read-your-writes`, its own files, on real servers, asked by an HTTP client.

#[path = "../../../../examples/read-your-writes/model.rs"]
mod model;
#[path = "../../../../examples/read-your-writes/service.rs"]
mod service;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::STEP_MAX;
use super::world::{MODEL, World};

/// Members that join one after the other, and by several clients at once.
const ALONE: i64 = 12;
const TOGETHER: i64 = 12;

async fn request(address: &str, method: &str, body: String) -> (u16, Value) {
    let stream = TokioIo::new(TcpStream::connect(address).await.expect("the service listens"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("HTTP");
    let connection = tokio::spawn(connection);
    let request = hyper::Request::builder().method(method).uri("/members").header("host", address);
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    connection.abort();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

async fn join(address: &str, name: String) -> (u16, Value) {
    request(address, "POST", name).await
}

/// Everybody sees at once what they wrote, in a read model that counts each event once.
async fn everybody_reads_their_own_write(address: &str) {
    let mut places = Vec::new();
    for number in 0..ALONE {
        let (status, member) = join(address, format!("alone-{number}")).await;
        assert_eq!((status, member["name"].as_str()), (201, Some(&*format!("alone-{number}"))), "{member}");
        places.push(member["place"].as_i64().expect("a place"));
    }
    let clients = (0..TOGETHER).map(|number| {
        let address = address.to_owned();
        tokio::spawn(async move { join(&address, format!("together-{number}")).await })
    });
    for client in clients.collect::<Vec<_>>() {
        let (status, member) = client.await.expect("it answers");
        assert_eq!(status, 201, "{member}");
        places.push(member["place"].as_i64().expect("a place"));
    }
    places.sort_unstable();
    assert_eq!(places, (1..=ALONE + TOGETHER).collect::<Vec<_>>(), "each event counts once");

    // A name is refused where it is written: there never is an event to take back.
    let (status, answer) = join(address, "alone-0".to_owned()).await;
    assert_eq!(status, 409, "{answer}");
    assert_eq!(join(address, String::new()).await.0, 422);
    let (_, total) = request(address, "GET", String::new()).await;
    assert_eq!(total["members"].as_i64(), Some(ALONE + TOGETHER));
}

#[test]
fn a_handler_reads_what_it_has_just_written() {
    let world = World::start(18);
    let settings = service::Settings {
        shop: world.site.url(),
        model: world.site.postgres.superuser_url(MODEL),
        brokers: world.site.kafka.bootstrap(),
        relay: format!("127.0.0.1:{}", world.configuration.port),
    };
    // So that the first wait is not for a consumer that still looks for its topic.
    let first =
        "SELECT pillarbox.emit('member', 'founder', 'MemberJoined', '{\"name\": \"founder\"}'::jsonb)";
    let id = world.site.postgres.query_one("postgres", first).expect("emitted");
    world.arrived(&format!("id={id}&wait=60"));
    let model = world.session(MODEL);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let address = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let ended = service::run(listener, settings).await;
            ended.map_err(|error| error.to_string()).expect("it serves");
        });
        address
    });
    super::harness::until::until("the founder is in the read model", STEP_MAX, || {
        let there = model.try_run("SELECT 1 / count(*) FROM members WHERE id = 'founder'");
        there.is_ok().then_some(())
    });
    model.run("UPDATE total SET members = 0");
    runtime.block_on(everybody_reads_their_own_write(&address));
}
