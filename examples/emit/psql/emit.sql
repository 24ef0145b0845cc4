-- An order and its event, in one transaction.
BEGIN;
INSERT INTO orders (id, state) VALUES ('psql-1', 'placed');
SELECT pillarbox.emit('order', 'psql-1', 'OrderPlaced', '{"id": "psql-1", "state": "placed"}'::jsonb);
COMMIT;

-- Rolled back: no order, no event.
BEGIN;
INSERT INTO orders (id, state) VALUES ('psql-2', 'placed');
SELECT pillarbox.emit('order', 'psql-2', 'OrderPlaced', '{"id": "psql-2", "state": "placed"}'::jsonb);
ROLLBACK;
