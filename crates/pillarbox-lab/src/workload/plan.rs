//! What a writer will do in one transaction, drawn from a seed: the same seed, the same plans.
//! Pure. Must never draw from the clock or the system.

use uuid::Uuid;

use super::WorkloadOptions;

/// Where in a transaction the odd things happen is drawn too; this many statements at most.
const COPY_ROWS_MAX: u64 = 20;

/// SplitMix64: small, seedable, good enough to shuffle a workload.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// A stream of its own for each pair.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }

    fn uuid(&mut self) -> Uuid {
        let bits = (u128::from(self.next()) << 64) | u128::from(self.next());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    }
}

/// One outbox row to write.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) aggregatetype: String,
    pub(super) aggregateid: Option<String>,
    pub(super) payload: String,
}

/// One thing to do.
pub(super) enum Step {
    /// An INSERT.
    Insert(Row),
    /// One COPY: all rows share an LSN.
    Copy(Vec<Row>),
    /// A savepoint, these rows, and back to the savepoint.
    Discard(Vec<Row>),
}

/// One transaction.
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Remove the rows again before the end, as outbox writers do to keep the table empty.
    pub(super) delete: bool,
    pub(super) commit: bool,
}

impl Plan {
    /// Draws the next transaction.
    pub(super) fn draw(rng: &mut Rng, options: &WorkloadOptions) -> Self {
        let mut left = 1 + rng.below(u64::from(options.events_max));
        let mut steps = Vec::new();
        while left > 0 {
            if rng.percent(options.savepoint_percent) {
                steps.push(Step::Discard(rows(rng, options, 3)));
            }
            if rng.percent(options.copy_percent) {
                let copied = rows(rng, options, left.min(COPY_ROWS_MAX));
                left -= copied.len() as u64;
                steps.push(Step::Copy(copied));
            } else {
                steps.push(Step::Insert(row(rng, options)));
                left -= 1;
            }
        }
        let delete = rng.percent(options.delete_percent);
        Self { steps, delete, commit: !rng.percent(options.rollback_percent) }
    }

    /// Rows that stay if the transaction commits, in the order in which they are written.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Row> {
        self.steps.iter().flat_map(|step| match step {
            Step::Insert(row) => std::slice::from_ref(row),
            Step::Copy(rows) => rows,
            Step::Discard(_) => &[],
        })
    }

    /// Rows that are rolled back to a savepoint in any case.
    pub(super) fn discarded(&self) -> impl Iterator<Item = &Row> {
        self.steps.iter().flat_map(|step| match step {
            Step::Discard(rows) => rows.as_slice(),
            _ => &[],
        })
    }
}

/// One to `most` rows.
fn rows(rng: &mut Rng, options: &WorkloadOptions, most: u64) -> Vec<Row> {
    let count = 1 + rng.below(most);
    (0..count).map(|_| row(rng, options)).collect()
}

fn row(rng: &mut Rng, options: &WorkloadOptions) -> Row {
    let types = options.aggregate_types.len() as u64;
    let keyless = rng.percent(options.keyless_percent);
    let key = rng.below(u64::from(options.keys));
    Row {
        id: rng.uuid(),
        aggregatetype: options.aggregate_types[rng.below(types) as usize].clone(),
        aggregateid: (!keyless).then(|| format!("key-{key}")),
        payload: payload(rng, options.payload_bytes),
    }
}

/// A JSON object of about this size, with what encoders get wrong: quotes, backslashes, several scripts.
fn payload(rng: &mut Rng, bytes: usize) -> String {
    const ODD: [&str; 5] = ["plain", r#"\"quoted\""#, r"back\\slash", "žluťoučký 馬", r"tab\tline\n'q'"];
    let odd = ODD[rng.below(ODD.len() as u64) as usize];
    let fill = "x".repeat(bytes.saturating_sub(odd.len() + 40));
    format!(r#"{{"n": {}, "odd": "{odd}", "fill": "{fill}"}}"#, rng.next() >> 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plans_and_another_gives_others() {
        let options = WorkloadOptions::default();
        let ids = |seed| -> Vec<Uuid> {
            let mut rng = Rng::new(seed, 3);
            (0..20)
                .flat_map(|_| Plan::draw(&mut rng, &options).kept().map(|r| r.id).collect::<Vec<_>>())
                .collect()
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
    }

    #[test]
    fn everything_is_drawn_within_its_bounds() {
        let options = WorkloadOptions::default();
        let mut rng = Rng::new(7, 0);
        let plans: Vec<Plan> = (0..300).map(|_| Plan::draw(&mut rng, &options)).collect();
        assert!(plans.iter().all(|p| (1..=options.events_max as usize).contains(&p.kept().count())));
        assert!(plans.iter().any(|p| !p.commit) && plans.iter().any(|p| p.commit && p.delete));
        assert!(plans.iter().any(|p| p.discarded().next().is_some()));
        assert!(plans.iter().flat_map(|p| &p.steps).any(|s| matches!(s, Step::Copy(rows) if rows.len() > 1)));
        assert!(plans.iter().flat_map(Plan::kept).any(|row| row.aggregateid.is_none()));
    }
}
