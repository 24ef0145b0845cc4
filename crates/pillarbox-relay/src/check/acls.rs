//! The ACLs that a pipeline needs, as commands for Kafka's own tool. Pure: nothing is asked and nothing is changed.
//!
//! Each stands with its reason, and nothing is in the list that no request of the relay needs. Topics that rows may
//! choose are named by the literal text that their template begins with; a template that begins with a column can
//! only be met by all topics.

use crate::config::{Config, Sasl, TopicPart};

/// One `kafka-acls.sh --add`.
struct Acl {
    resource: String,
    operations: Vec<&'static str>,
    reason: &'static str,
    optional: bool,
}

/// All of them, for an administrator.
pub fn print_acls(config: &Config) -> String {
    let principal = principal(config);
    let mut text = format!(
        "# Pillarbox pipeline {}: the ACLs of {principal}, where the cluster has an authorizer\n",
        config.pipeline
    );
    for Acl { resource, operations, reason, optional } in needed(config) {
        let operations: String = operations.iter().map(|name| format!(" --operation {name}")).collect();
        let mark = if optional { "# optional: " } else { "" };
        text.push_str(&format!(
            "\n# {reason}\n{mark}kafka-acls.sh --bootstrap-server {} --add --allow-principal {principal}{operations} {resource}\n",
            config.kafka.brokers[0]
        ));
    }
    text
}

/// Who the broker takes us for, as far as the configuration says.
fn principal(config: &Config) -> String {
    let name = match &config.kafka.sasl {
        Some(Sasl::Plain(login) | Sasl::ScramSha256(login) | Sasl::ScramSha512(login)) => &login.username,
        Some(Sasl::OAuthBearer(oauth)) => &oauth.client_id,
        None if config.kafka.tls.as_ref().is_some_and(|tls| tls.identity.is_some()) => {
            return "'User:<subject of the certificate in kafka.tls.cert>'".to_owned();
        }
        None => "ANONYMOUS",
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if name.chars().all(plain) {
        format!("User:{name}")
    } else {
        format!("'User:{}'", name.replace('\'', "'\\''"))
    }
}

fn needed(config: &Config) -> Vec<Acl> {
    let acl = |resource: String, operations: &[&'static str], reason| Acl {
        resource,
        operations: operations.to_vec(),
        reason,
        optional: false,
    };
    let create = config.kafka.topics.create;
    let mut list = vec![
        acl(
            prefixed("--transactional-id", &config.transactional_id_prefix()),
            &["Write", "Describe"],
            "its Kafka transactions; whoever else may write here can fence the relay",
        ),
        acl(
            format!("--topic {}", config.checkpoint_topic()),
            // Create: `setup` makes it.
            &["Read", "Write", "Describe", "DescribeConfigs", "Create"],
            "its checkpoint: written with every transaction, read at every start; Create is for `pillarbox setup`",
        ),
    ];
    for resource in event_topics(config) {
        let mut operations = vec!["Write", "Describe", "DescribeConfigs", "Read"];
        operations.extend(create.then_some("Create"));
        list.push(acl(
            resource,
            &operations,
            "the events; Read is for the state of its own transactions (DescribeProducers) and for `pillarbox tap`",
        ));
    }
    if config.has_dead_letters() {
        let mut operations = vec!["Write", "Describe", "DescribeConfigs", "Read"];
        operations.extend(create.then_some("Create"));
        let topic = format!("--topic {}", config.dead_letter_topic());
        list.push(acl(
            topic,
            &operations,
            "the rows that no topic takes; Read is for `pillarbox dead-letters`",
        ));
    }
    list.push(Acl {
        optional: true,
        ..acl(
            "--cluster".to_owned(),
            &["DescribeConfigs"],
            "lets `pillarbox check` read the brokers' limits; the relay itself does not need it",
        )
    });
    list.push(Acl {
        optional: true,
        ..acl(
            "--cluster".to_owned(),
            &["ClusterAction"],
            "lets the relay repair transaction markers that a broker lost; a wide right: it is that of a broker",
        )
    });
    list
}

fn prefixed(option: &str, prefix: &str) -> String {
    format!("{option} {prefix} --resource-pattern-type prefixed")
}

/// The topics of all outboxes, each pattern once.
fn event_topics(config: &Config) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    for outbox in &config.sources() {
        let resource = match outbox.topic.parts() {
            [TopicPart::Literal(name)] => format!("--topic {name}"),
            [TopicPart::Literal(prefix), ..] => prefixed("--topic", prefix),
            _ => "--topic '*'".to_owned(),
        };
        if !list.contains(&resource) {
            list.push(resource);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kafka, Login, OnError, Outbox, TableName, TopicTemplate};

    fn config(topic: &str, sasl: Option<Sasl>) -> Config {
        let table = TableName { schema: "public".into(), name: "outbox".into() };
        Config {
            pipeline: "orders".parse().expect("a name"),
            postgres: super::super::postgres::tests::config().postgres,
            kafka: Kafka {
                compression: crate::config::Compression::None,
                brokers: vec!["k:9093".into()],
                tls: None,
                sasl,
                topics: Default::default(),
                transaction: Default::default(),
            },
            outbox: vec![Outbox {
                topic: TopicTemplate::parse(topic).expect("a template"),
                ..Outbox::debezium(table)
            }],
            messages: None,
        }
    }

    #[test]
    fn topics_are_named_as_narrowly_as_the_template_allows() {
        for (topic, resource) in [
            ("outbox.event.{aggregatetype}", "--topic outbox.event. --resource-pattern-type prefixed"),
            ("orders", "--topic orders"),
            ("{kind}.events", "--topic '*'"),
        ] {
            assert_eq!(event_topics(&config(topic, None)), [resource], "{topic}");
        }
    }

    #[test]
    fn dead_letters_have_a_topic_of_their_own() {
        let mut config = config("orders", None);
        let topic = "--topic __pillarbox.orders.dead-letters";
        assert!(!print_acls(&config).contains(topic));
        config.outbox[0].on_error = OnError::DeadLetter;
        let printed = print_acls(&config);
        let line = printed.lines().find(|line| line.contains(topic)).expect("its line");
        assert!(line.contains("Write") && line.contains("Create"), "{line}");
    }

    #[test]
    fn the_user_of_the_login_is_the_principal() {
        let login =
            |name: &str| Sasl::ScramSha512(Login { username: name.into(), password: "hunter2".into() });
        for (sasl, principal) in [
            (None, "User:ANONYMOUS"),
            (Some(login("relay")), "User:relay"),
            (Some(login("it's")), "'User:it'\\''s'"),
        ] {
            let text = print_acls(&config("orders", sasl));
            assert!(text.contains(&format!("--allow-principal {principal} ")), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
