//! A backlog of an outbox table, as a walsender sends it: one CopyData message per change, `pgoutput` inside.
//!
//! Deterministic: ids, keys and payloads are functions of a counter.

/// Oid of the table.
const OID: u32 = 16_400;
/// Start of the first commit record.
const FIRST_LSN: u64 = 0x16_B374_D848;
/// WAL bytes from commit to commit.
const LSN_STEP: u64 = 5_648;
/// Keys in use: many more than partitions.
const KEYS: u64 = 10_000;
/// The server's clock, microseconds since 2000, and how long before it these rows were committed: a backlog.
pub(crate) const SENT_AT: i64 = 820_000_000_000_000;
const AGE: i64 = 60_000_000;

/// See the module.
pub(crate) struct Traffic {
    rows: usize,
    payload: usize,
    lsn: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Traffic {
    pub(crate) fn new(rows: usize, payload: usize) -> Self {
        Self { rows, payload, lsn: FIRST_LSN, count: 0, bytes: Vec::new() }
    }

    /// Rows so far.
    pub(crate) fn events(&self) -> usize {
        self.count as usize
    }

    /// The table with the columns that Debezium's outbox has: uuid, text, text, text, jsonb.
    pub(crate) fn description(&self) -> Vec<u8> {
        let mut change = vec![b'R'];
        change.extend(OID.to_be_bytes());
        change.extend(b"public\0outbox\0d");
        let columns =
            [("id", 2950_u32), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 3802)];
        change.extend(5_u16.to_be_bytes());
        for (name, type_oid) in columns {
            change.push(0);
            change.extend(name.as_bytes());
            change.push(0);
            change.extend(type_oid.to_be_bytes());
            change.extend((-1_i32).to_be_bytes());
        }
        let mut bytes = Vec::new();
        send(0, &change, &mut bytes);
        bytes
    }

    /// Whole transactions of `size` bytes or a little more.
    pub(crate) fn next(&mut self, size: usize) -> &[u8] {
        self.bytes.clear();
        while self.bytes.len() < size {
            self.transaction();
        }
        &self.bytes
    }

    fn transaction(&mut self) {
        self.lsn += LSN_STEP;
        let committed_at = SENT_AT - AGE;
        let mut begin = vec![b'B'];
        begin.extend(self.lsn.to_be_bytes());
        begin.extend(committed_at.to_be_bytes());
        begin.extend(7_u32.to_be_bytes());
        send(self.lsn - LSN_STEP / 2, &begin, &mut self.bytes);
        for _ in 0..self.rows {
            let row = self.row();
            send(self.lsn - LSN_STEP / 2, &row, &mut self.bytes);
        }
        let mut commit = vec![b'C', 0];
        commit.extend(self.lsn.to_be_bytes());
        commit.extend((self.lsn + 48).to_be_bytes());
        commit.extend(committed_at.to_be_bytes());
        send(self.lsn, &commit, &mut self.bytes);
    }

    fn row(&mut self) -> Vec<u8> {
        self.count += 1;
        // A bijection of 64 bits: ids and keys do not come in order.
        let mixed = self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hex = format!("{:032x}", u128::from(mixed) << 64 | u128::from(self.count));
        let id = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let key = format!("order-{}", mixed % KEYS);
        let payload = format!("{{\"id\": \"{id}\", \"n\": {}, \"text\": \"", self.count);
        let filler = self.payload.saturating_sub(payload.len() + 2);
        let payload = format!("{payload}{}\"}}", "x".repeat(filler));
        let mut row = vec![b'I'];
        row.extend(OID.to_be_bytes());
        row.push(b'N');
        row.extend(5_u16.to_be_bytes());
        for value in [&id, "order", &key, "OrderPlaced", &payload] {
            row.push(b't');
            row.extend((value.len() as u32).to_be_bytes());
            row.extend(value.as_bytes());
        }
        row
    }
}

/// CopyData around XLogData around a change.
fn send(start: u64, change: &[u8], bytes: &mut Vec<u8>) {
    bytes.push(b'd');
    bytes.extend((4 + 1 + 24 + change.len() as u32).to_be_bytes());
    bytes.push(b'w');
    bytes.extend(start.to_be_bytes());
    bytes.extend((start + (64 << 20)).to_be_bytes());
    bytes.extend(SENT_AT.to_be_bytes());
    bytes.extend(change);
}
