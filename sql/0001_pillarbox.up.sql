-- What Pillarbox keeps in your database: one schema, two small tables.
-- It never reads or writes anything else here but the outbox tables' inserts, through WAL.

-- The consumer's side may be here already.
CREATE SCHEMA IF NOT EXISTS pillarbox;
COMMENT ON SCHEMA pillarbox IS 'Pillarbox: relays committed outbox rows to Kafka';

CREATE TABLE pillarbox.migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pillarbox.migrations IS 'which numbered migrations of this schema have been applied';

-- One row per pipeline, advanced every few seconds while a relay streams. The new value travels
-- through WAL into the checkpoint in Kafka. A database whose row is older than the checkpoint is a
-- restored backup or a clone, and the relay refuses to go on from it.
CREATE TABLE pillarbox.lineage (
    pipeline   text        PRIMARY KEY CHECK (pipeline ~ '^[a-z][a-z0-9_]{0,39}$'),
    seq        bigint      NOT NULL CHECK (seq > 0),
    nonce      text        NOT NULL CHECK (nonce ~ '^[0-9]+-[0-9a-f]{16}$'),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE pillarbox.lineage IS 'tells this database from its clones and restored copies';

INSERT INTO pillarbox.migrations (version, name) VALUES (1, 'pillarbox');
