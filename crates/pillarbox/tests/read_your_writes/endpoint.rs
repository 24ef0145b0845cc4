//! `GET /api/v1/events` of a running relay: by token, by id, waiting, refused.

use std::time::{Duration, Instant};

use pillarbox_wire::header::PB_POS;
use rdkafka::message::Message;

use super::STEP_MAX;
use super::harness::records::{Isolation, header, read};
use super::world::{MODEL, TOPIC, World, ask, ask_within};

/// Partition, offset and sequence of an event, as a consumer sees it.
fn place(world: &World, id: &str) -> (i64, i64, i64) {
    let mut places = Vec::new();
    read(&world.site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
        if header(message, "id").as_deref() == Some(id) {
            let pos = header(message, PB_POS).expect("pb-pos");
            let sequence = pos.rsplit(':').next().and_then(|number| number.parse().ok()).expect("a number");
            places.push((message.partition().into(), message.offset(), sequence));
        }
    });
    assert_eq!(places.len(), 1, "{id} once");
    places[0]
}

#[test]
fn an_event_is_asked_for_by_its_id() {
    let world = World::start(18);
    let (writer, model) = (world.session("postgres"), world.session(MODEL));
    // Asked for before it exists: the answer comes when it is in Kafka.
    let early = "00000000-0000-0000-0000-000000000042";
    let answer = std::thread::scope(|scope| {
        let port = world.configuration.port;
        let asked = scope.spawn(move || ask(port, &format!("id={early}&wait=60")));
        writer.run(&format!("SELECT pillarbox.emit('order', 'k', 'placed', '{{}}'::jsonb, id => '{early}')"));
        asked.join().expect("it answers")
    });
    assert_eq!(answer.0, 200, "{answer:?}");

    // Many, in one batch and in several, some of them never committed.
    let mut ids = vec![early.to_owned()];
    for transaction in 0..5 {
        writer.run("BEGIN");
        let some: Vec<String> = (0..7).map(|n| writer.emit(&format!("k-{n}"))).collect();
        if transaction == 2 {
            writer.run("ROLLBACK");
            assert_eq!(world.ask(&format!("id={}", some[0])).0, 404);
        } else {
            writer.run("COMMIT");
            ids.extend(some);
        }
    }
    for id in &ids {
        let answer = world.arrived(&format!("id={id}&wait=60"));
        let event = &answer["events"][0];
        let number = |name: &str| event[name].as_i64().unwrap_or_else(|| panic!("{name}: {answer}"));
        let told = (number("partition"), number("offset"), number("sequence"));
        assert_eq!((event["id"].as_str(), event["topic"].as_str()), (Some(id.as_str()), Some(TOPIC)));
        assert_eq!(told, place(&world, id), "{answer}");
        assert_eq!(answer["receipt"], format!("orders:{TOPIC}/{}={}", told.0, told.2));
    }

    // Several at once: one receipt for all.
    let query: Vec<String> = ids.iter().map(|id| format!("id={id}")).collect();
    let answer = world.arrived(&query.join("&"));
    let receipt = answer["receipt"].as_str().expect("a receipt");
    assert!(!model.applied(receipt));
    world.consume();
    assert!(model.applied(receipt));
    let (code, answer) = world.ask("id=no-such-event");
    assert_eq!((code, &answer["code"]), (404, &"PB-3012".into()), "{answer}");
    assert!(answer["message"].as_str().is_some_and(|words| words.contains("65536")), "{answer}");
}

/// What is written on the side moves WAL and gives no event: tokens are reached without a commit to Kafka, which an idle
/// pipeline makes every ten seconds only.
#[test]
fn a_token_of_an_idle_pipeline_is_reached() {
    for version in [15, 18] {
        let world = World::start(version);
        let (writer, tail) = (world.session("postgres"), world.session("postgres"));
        writer.run("CREATE TABLE aside (text text)");
        let id = writer.emit("first");
        world.arrived(&format!("id={id}&wait=60"));
        // An idle checkpoint comes every ten seconds: by chance an answer would take five.
        let mut at_once = 0;
        let mut ask = |query: &str| {
            let asked = Instant::now();
            let answer = world.arrived(&format!("{query}&wait=60"));
            at_once += u32::from(asked.elapsed() < Duration::from_secs(4));
            answer
        };
        for round in 0..8 {
            writer.run("INSERT INTO aside SELECT repeat('x', 100) FROM generate_series(1, 10)");
            let answer = ask(&format!("token={}&topic={TOPIC}", writer.token()));
            assert_eq!(answer["partitions"].as_array().map(Vec::len), Some(1), "round {round}: {answer}");
            // At its end WAL that nobody flushes, of a transaction that stays open.
            writer.run("SET synchronous_commit = off; INSERT INTO aside VALUES ('not flushed')");
            tail.run("BEGIN; INSERT INTO aside SELECT 'open' FROM generate_series(1, 3)");
            ask(&format!("token={}", writer.token()));
            tail.run("ROLLBACK");
        }
        assert!(at_once >= 12, "{at_once} of 16 answers came within 4 s");
    }
}

#[test]
fn what_the_relay_cannot_answer() {
    let world = World::start(18);
    let token = {
        let writer = world.session("postgres");
        let id = writer.emit("k");
        world.arrived(&format!("id={id}&wait=60"));
        writer.token()
    };
    let (system, place) = token.split_once(':').expect("a token");
    for (query, code, fault) in [
        (format!("token=1:{place}"), 409, "PB-3011"),
        (format!("token={system}:0:0/1"), 409, "PB-3011"),
        (format!("token={token}&topic=no.such.topic&wait=60"), 404, "PB-2021"),
        ("token=nonsense".to_owned(), 400, "PB-3013"),
        ("wait=1".to_owned(), 400, "PB-3013"),
    ] {
        let (answered, answer) = world.ask(&query);
        assert_eq!((answered, answer["code"].as_str()), (code, Some(fault)), "{query}: {answer}");
    }
    // A timeline that is still to come, and a place that WAL has not come to.
    for query in [format!("token={system}:2:0/1"), format!("token={system}:1:FFFF/0&wait=0.2")] {
        let (code, answer) = world.ask(&query);
        assert_eq!((code, &answer["reached"]), (202, &false.into()), "{query}: {answer}");
        assert!(answer["through"].is_string(), "{answer}");
    }

    // Paused: what comes is not reached, and is once it goes on.
    assert_eq!(world.relay.post("/api/v1/pause").map(|(code, _)| code), Some(200));
    let (id, token) = {
        let writer = world.session("postgres");
        (writer.emit("paused"), writer.token())
    };
    assert_eq!(world.ask(&format!("token={token}&wait=0.3")).0, 202);
    assert_eq!(world.ask(&format!("id={id}&wait=0.3")).0, 404);
    assert_eq!(world.relay.post("/api/v1/resume").map(|(code, _)| code), Some(200));
    world.arrived(&format!("id={id}&wait=60"));
}

/// A standby knows nothing, and says so; a relay that starts knows tokens, and no older ids.
#[test]
fn whoever_leads_answers() {
    let mut world = World::start(18);
    let (id, token) = {
        let writer = world.session("postgres");
        (writer.emit("k"), writer.token())
    };
    world.arrived(&format!("id={id}&wait=60"));
    let standby_file = world.site.path("standby.yaml");
    std::fs::copy(&world.configuration.file, &standby_file).expect("a copy");
    let text = std::fs::read_to_string(&standby_file).expect("the file");
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("http:")).collect();
    std::fs::write(&standby_file, kept.join("\n") + "\n").expect("written");
    let standby_configuration = world.site.configured("orders", 4, standby_file);
    let mut standby = world.site.relay(&standby_configuration);
    standby.wait_state("standing_by", STEP_MAX);
    let (code, answer) = ask(standby_configuration.port, &format!("token={token}&wait=0.2"));
    assert_eq!((code, answer["code"].as_str()), (503, Some("PB-3009")), "{answer}");
    world.relay.kill9();
    let (code, answer) = ask(standby_configuration.port, &format!("token={token}&wait=60"));
    assert_eq!((code, &answer["reached"]), (200, &true.into()), "it leads now: {answer}");
    assert_eq!(ask(standby_configuration.port, &format!("id={id}")).0, 404);

    // Halted: nobody is kept waiting.
    world.site.postgres.execute("postgres", "DROP PUBLICATION pillarbox_orders").expect("dropped");
    world
        .site
        .postgres
        .execute("postgres", "SELECT pillarbox.emit('order', 'k', 'x', '{}'::jsonb)")
        .expect("emitted");
    let lost = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'";
    world.site.postgres.execute("postgres", lost).expect("its session ends");
    standby.wait_state("halted", STEP_MAX);
    // Less patience than the question: an answer after its wait would come too late.
    let patience = Duration::from_secs(30);
    let (code, answer) = ask_within(patience, standby_configuration.port, "id=later&wait=60");
    assert_eq!((code, answer["code"].as_str()), (503, Some("PB-3009")), "{answer}");
    let code = standby.fault().expect("why it has halted");
    assert!(answer["cause"].as_str().is_some_and(|cause| cause.contains(&code)), "{answer}");
}
