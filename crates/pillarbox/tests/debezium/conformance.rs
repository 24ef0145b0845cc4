//! The 44 cases of Debezium's own test of its router, by name.
//!
//! | a case has | and must |
//! | --- | --- |
//! | `records` | give them |
//! | `halts` | halt at its last statement with this code |
//! | `refused` | not be set up, with this code |
//! | `invalid` | not even be a configuration, with this code |
//! | `differs` | say why, here and in `docs/debezium.md` |

use std::collections::HashSet;

use serde_json::{Value, json};

use super::record::Expected;
use super::{Case, STEP_MAX, Site, execute, set_up};

const CONFORMANCE: &str = include_str!("conformance.json");
const DOCS: &str = include_str!("../../../../docs/debezium.md");
/// As many as Debezium's `EventRouterTest` has.
const CASES: usize = 44;

/// A case that gives no records, or a halt.
pub(super) struct Refusal(Value);

pub(super) fn cases() -> (Vec<Case>, Vec<Refusal>) {
    let cases: Vec<Value> = serde_json::from_str(CONFORMANCE).expect("conformance.json is JSON");
    let names: HashSet<&str> = cases.iter().map(name).collect();
    assert_eq!(names.len(), CASES);
    let (mut tables, mut refusals) = (Vec::new(), Vec::new());
    for case in &cases {
        let code = ["halts", "refused", "invalid"].iter().any(|kind| case[*kind].is_string());
        match case["differs"].as_str() {
            Some(why) => {
                let row = format!("| `{}` | {why} |", name(case));
                assert!(DOCS.contains(&row), "docs/debezium.md lacks the row\n{row}");
            }
            None => {
                assert!(code != case["records"].as_array().is_some_and(|r| !r.is_empty()), "{}", name(case))
            }
        }
        if code {
            refusals.push(Refusal(case.clone()));
        } else if case["records"].is_array() {
            tables.push(table(case));
        }
    }
    (tables, refusals)
}

fn name(case: &Value) -> &str {
    case["case"].as_str().expect("a case has a name")
}

/// Postgres folds names to lower case, and so do we here.
fn table_name(case: &Value) -> String {
    format!("case_{}", name(case).to_lowercase()).chars().take(63).collect()
}

fn table(case: &Value) -> Case {
    let topic = format!("outbox.event.{}", name(case));
    let records = case["records"].as_array().expect("records");
    Case {
        name: name(case).to_owned(),
        create: format!("CREATE TABLE {} ({})", table_name(case), case["columns"].as_str().expect("columns")),
        statements: statements(case),
        outbox: outbox(case),
        expected: records.iter().map(|record| Expected::new(&topic, record)).collect(),
        topic,
    }
}

fn statements(case: &Value) -> Vec<String> {
    let table = table_name(case);
    let sql = case["sql"].as_array().expect("statements").iter().filter_map(Value::as_str);
    sql.map(|sql| sql.replace("{t}", &table).replace("{c}", name(case))).collect()
}

fn outbox(case: &Value) -> Value {
    let mut outbox = case["outbox"].clone();
    outbox["table"] = json!(format!("public.{}", table_name(case)));
    outbox
}

impl Refusal {
    pub(super) fn check(&self, site: &Site) {
        let case = &self.0;
        let outbox = outbox(case).to_string();
        let pipeline: String = table_name(case).chars().filter(char::is_ascii_lowercase).take(40).collect();
        let configuration = site.configure_outbox(&pipeline, 1, &[], &outbox);
        let says = |words: &[&str], code: &str| {
            let answer = site.command(words, &configuration);
            let said = format!("{}{}", answer.stdout, answer.stderr);
            assert!(answer.code != Some(0) && said.contains(code), "{}: {said}", name(case));
        };
        if let Some(code) = case["invalid"].as_str() {
            return says(&["config", "validate"], code);
        }
        execute(site, &table(case).create);
        if let Some(code) = case["refused"].as_str() {
            return says(&["setup"], code);
        }
        set_up(site, &configuration);
        statements(case).iter().for_each(|sql| execute(site, sql));
        let mut relay = site.relay(&configuration);
        relay.wait_state("halted", STEP_MAX);
        assert_eq!(relay.fault().as_deref(), case["halts"].as_str(), "{}", name(case));
    }
}
