// Writes an invoice for each event once.
import { createKafkaClient } from 'kafka-ts';
import pg from 'pg';

const { KAFKA_BROKERS, KAFKA_GROUP, KAFKA_TOPIC } = process.env;

// Without options: everything comes from the PG* variables. A pool, because batches of several brokers come at once.
const pool = new pg.Pool();

async function apply(database, { topic, partition, offset, key, value, headers }) {
  await database.query('BEGIN');
  const accept = "SELECT pillarbox.accept('billing', $1, $2, $3, $4) AS applies";
  const { rows } = await database.query(accept, [topic, partition, headers['pb-pos'], offset]);
  if (rows[0].applies) {
    // The effect: in the same transaction, or it is not once.
    await database.query('INSERT INTO invoices (order_id, content) VALUES ($1, $2)', [key, value]);
  }
  await database.query('COMMIT');
}

async function onBatch(records) {
  const database = await pool.connect();
  for (const record of records) {
    await apply(database, record).catch((error) => stop(record, error));
  }
  database.release();
  // When this returns, the client commits the offsets: after the effects. A hint: the database knows what was applied.
}

function stop(record, error) {
  console.error(`stopped at offset ${record.offset}: ${error.code} ${error.message} ${error.hint ?? ''}`);
  // A gap or another history: starting again does not help, a person decides.
  process.exit(error.code?.startsWith('PB') ? 65 : 1);
}

const bootstrapServers = KAFKA_BROKERS.split(',').map((broker) => {
  const [host, port] = broker.split(':');
  return { host, port: Number(port) };
});
const consumer = await createKafkaClient({ clientId: 'billing', bootstrapServers }).startConsumer({
  groupId: KAFKA_GROUP,
  topics: [KAFKA_TOPIC],
  isolationLevel: 1, // read_committed
  fromBeginning: true,
  onBatch,
});
process.once('SIGTERM', async () => {
  await consumer.close();
  process.exit();
});
