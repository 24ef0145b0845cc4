-- Makes tests/data/pgoutput-*.txt: one line a message, `text|binary <lsn> <pgoutput in hex>`, as pgoutput itself wrote it.
-- Run in an empty database of a server with wal_level = logical:
--   psql -X -q -A -t -v ON_ERROR_STOP=1 -f pgoutput.sql
\set QUIET on
\pset format unaligned
\pset tuples_only on
\o /dev/null
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE outbox (
  id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid text, type text,
  payload jsonb, raw bytea, amount numeric(12,2), mood mood);
CREATE TABLE "Größe" (a int, b text);
ALTER TABLE "Größe" REPLICA IDENTITY FULL;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY REFERENCES parent);
ALTER TABLE outbox ALTER payload SET STORAGE EXTERNAL;
CREATE PUBLICATION p FOR ALL TABLES;
SELECT pg_create_logical_replication_slot('text', 'pgoutput');
SELECT pg_copy_logical_replication_slot('text', 'binary');

BEGIN;
INSERT INTO outbox VALUES ('00000000-0000-0000-0000-000000000001', 'order', 'k1', 'Created', '{"n": 1}', '\x00ff', 12.50, 'glad');
INSERT INTO outbox VALUES ('00000000-0000-0000-0000-000000000002', 'order', NULL, '', NULL, NULL, NULL, NULL);
SAVEPOINT s;
INSERT INTO outbox VALUES ('00000000-0000-0000-0000-0000000000ff', 'rolled', 'back');
ROLLBACK TO s;
SELECT pg_logical_emit_message(true, 'outbox', '{"héllo": true}');
COMMIT;

SELECT pg_logical_emit_message(false, 'heartbeat', '\x00fe'::bytea);

INSERT INTO outbox (id, aggregatetype, payload)
  SELECT '00000000-0000-0000-0000-000000000003', 'toast', jsonb_build_object('s', string_agg(md5(i::text), '')) FROM generate_series(1, 100) i;
UPDATE outbox SET type = 'Touched' WHERE aggregatetype = 'toast';
UPDATE outbox SET id = '00000000-0000-0000-0000-000000000004' WHERE aggregateid = 'k1';
DELETE FROM outbox WHERE id = '00000000-0000-0000-0000-000000000002';

COPY "Größe" FROM stdin;
1	eins
2	\N
3	drei
\.
UPDATE "Größe" SET b = 'zwei' WHERE a = 2;
DELETE FROM "Größe" WHERE a = 3;

BEGIN;
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1);
TRUNCATE parent RESTART IDENTITY CASCADE;
COMMIT;

ALTER TABLE child ADD COLUMN note text DEFAULT 'x';
INSERT INTO parent VALUES (7);
INSERT INTO child VALUES (7);

SELECT pg_replication_origin_create('elsewhere');
SELECT pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT pg_replication_origin_xact_setup('16/B374D848', '2024-02-29 12:00:00+00');
INSERT INTO parent VALUES (8);
COMMIT;
SELECT pg_replication_origin_session_reset();
SELECT pg_replication_origin_drop('elsewhere');

\o
SELECT 'text ' || lsn || ' ' || encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('text', NULL, NULL,
  'proto_version', '1', 'publication_names', 'p', 'messages', 'true');
SELECT 'binary ' || lsn || ' ' || encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('binary', NULL, NULL,
  'proto_version', '1', 'publication_names', 'p', 'messages', 'true', 'binary', 'true');
\o /dev/null
SELECT pg_drop_replication_slot('text'), pg_drop_replication_slot('binary');
