//! The interface asked over a socket by its own client.

use std::io::{Read, Write};
use std::sync::OnceLock;

use super::*;
use pillarbox_relay::pipeline::status::State as Life;

/// The recorder is one per process, so tests share it.
fn recorder() -> metrics::Scrape {
    static RECORDER: OnceLock<metrics::Scrape> = OnceLock::new();
    RECORDER.get_or_init(|| metrics::install().unwrap()).clone()
}

struct Interface {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
    requests: mpsc::Receiver<Request>,
}

async fn start() -> Interface {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, receiver) = watch::channel(Status::new("orders"));
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let desk = events::Desk::new(Arc::new(pillarbox_relay::pipeline::arrivals::Arrivals::new("orders")));
    let shared = Shared { status: receiver, requests: sender, metrics: recorder(), desk };
    tokio::spawn(serve(listener, shared));
    Interface { address, status, requests }
}

impl Interface {
    async fn get(&self, path: &'static str) -> (u16, String) {
        let answer = client::get(self.address, path).await.unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    fn set(&self, state: Life, fault: Option<Fault>) {
        let mut status = Status::clone(&self.status.borrow());
        status.state = state;
        status.fault = fault.as_ref().map(FaultView::from);
        status.starts_total = 3;
        self.status.send_replace(Arc::new(status));
    }
}

#[tokio::test]
async fn health_follows_the_status() {
    let interface = start().await;
    assert_eq!(interface.get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(interface.get("/readyz").await, (503, "starting\n".to_owned()));
    for (state, code) in [
        (Life::Streaming, 200),
        (Life::StandingBy, 200),
        (Life::Paused, 200),
        (Life::Draining, 503),
        (Life::Stopped, 503),
    ] {
        interface.set(state, None);
        assert_eq!(interface.get("/readyz").await, (code, format!("{}\n", state_word(state))));
    }
    let fault = Fault::new(Code::SlotMissing, "slot s does not exist").hint("run pillarbox setup");
    interface.set(Life::Halted, Some(fault));
    let (code, text) = interface.get("/readyz").await;
    assert_eq!(code, 503);
    assert_eq!(text, "halted\nPB-1013: slot s does not exist\nhint: run pillarbox setup\n");
    assert_eq!(interface.get("/livez").await.0, 200);
    assert_eq!(interface.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn dead_letters_are_a_note() {
    let interface = start().await;
    let mut status = Status::clone(&interface.status.borrow());
    (status.state, status.dead_letters_total) = (Life::Streaming, 2);
    interface.status.send_replace(Arc::new(status));
    let (code, text) = interface.get("/readyz").await;
    assert_eq!(code, 200);
    assert!(text.starts_with("streaming\nnote: PB-4030: ") && text.contains("start: 2;"), "{text}");
}

#[tokio::test]
async fn status_and_metrics() {
    let interface = start().await;
    interface.set(Life::Streaming, None);
    let (code, text) = interface.get("/api/v1/status").await;
    assert_eq!(code, 200);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["state"], &value["pipeline"]), (&json!("streaming"), &json!("orders")));
    let (code, text) = interface.get("/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "pillarbox_starts_total{pipeline=\"orders\"} 3\n",
        "pillarbox_halted{pipeline=\"orders\"} 0\n",
        "pillarbox_build_info{version=",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}

#[tokio::test]
async fn verbs_reach_the_pipeline() {
    let mut interface = start().await;
    let address = interface.address;
    let ask = move |verb| tokio::spawn(async move { client::post(address, verb).await.unwrap() });
    let asked = ask(Verb::Pause);
    let request = interface.requests.recv().await.unwrap();
    assert_eq!(request.verb, Verb::Pause);
    request.done.send(Ok(())).unwrap();
    assert_eq!(asked.await.unwrap().status, 200);

    let asked = ask(Verb::Resume);
    let request = interface.requests.recv().await.unwrap();
    request.done.send(Err(Fault::new(Code::SlotLost, "the slot is lost"))).unwrap();
    let answer = asked.await.unwrap();
    assert_eq!(answer.status, 409);
    let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(value["code"], "PB-1014");

    let asked = ask(Verb::Resume);
    drop(interface.requests.recv().await.unwrap());
    assert_eq!(asked.await.unwrap().status, 503);
    drop(interface.requests);
    assert_eq!(ask(Verb::Resume).await.unwrap().status, 503);
}

#[tokio::test]
async fn a_web_page_cannot_pause() {
    let interface = start().await;
    let address = interface.address;
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request =
            "POST /api/v1/pause HTTP/1.0\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    assert!(answer.await.unwrap().starts_with("HTTP/1.0 403"));
}

#[tokio::test]
async fn a_port_in_use_is_a_configuration_error() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let fault = bind(taken.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(fault.code, Code::ConfigValue);
    assert!(fault.hint.unwrap().contains("http: { listen: off }"));
}
