// An order and its event, in one transaction.
import pg from 'pg';

// Without options: everything comes from the PG* variables.
const client = new pg.Client();

async function place(order) {
  await client.query("INSERT INTO orders (id, state) VALUES ($1, 'placed')", [order]);
  // The cast chooses among the forms: jsonb here; without it, a string is text.
  const emit = "SELECT pillarbox.emit('order', $1, 'OrderPlaced', $2::jsonb) AS id";
  const { rows } = await client.query(emit, [order, { id: order, state: 'placed' }]);
  return rows[0].id;
}

await client.connect();
await client.query('BEGIN');
console.log(await place('node-postgres-1'));
await client.query('COMMIT');

// Rolled back: no order, no event.
await client.query('BEGIN');
await place('node-postgres-2');
await client.query('ROLLBACK');
await client.end();
