-- Events that a consumer could not apply, and those of the same key that wait behind them. The row of
-- the partition has moved past all of them: a row here stands for an effect that is still owed. It is
-- taken out in the transaction that applies it.
--
-- No CHECK constraints, as in consumer_positions. Texts are compared by bytes.

CREATE TABLE pillarbox.consumer_parked (
    consumer      text COLLATE "C" NOT NULL,
    source        text COLLATE "C" NOT NULL,
    topic         text COLLATE "C" NOT NULL,
    partition     integer          NOT NULL,
    position      text COLLATE "C" NOT NULL,
    sequence      bigint           NOT NULL,
    kafka_offset  bigint,
    key           bytea,
    value         bytea,
    header_names  bytea[]          NOT NULL,
    header_values bytea[]          NOT NULL,
    reason        text,
    attempts      integer          NOT NULL DEFAULT 0,
    parked_at     timestamptz      NOT NULL DEFAULT clock_timestamp(),
    tried_at      timestamptz,
    PRIMARY KEY (consumer, topic, partition, source, position)
);
COMMENT ON TABLE pillarbox.consumer_parked IS 'events that were accepted and are still to be applied, key by key, in the order of their position';
COMMENT ON COLUMN pillarbox.consumer_parked.key IS 'NULL: parked alone, nothing waits for it';
COMMENT ON COLUMN pillarbox.consumer_parked.header_names IS 'bytes, because a poison event may have names that are no text: convert_from(header_names[1], ''UTF8'')';
COMMENT ON COLUMN pillarbox.consumer_parked.reason IS 'why it failed last; NULL: it never failed, it waits behind another';

-- A key can be longer than an index entry may be; its hash is not.
CREATE INDEX consumer_parked_key ON pillarbox.consumer_parked
    (consumer, source, topic, partition, sha256(key), position) WHERE key IS NOT NULL;

CREATE TABLE pillarbox.consumer_discards (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer     text        NOT NULL,
    source       text        NOT NULL,
    topic        text        NOT NULL,
    partition    integer     NOT NULL,
    position     text        NOT NULL,
    sequence     bigint      NOT NULL,
    kafka_offset bigint,
    parked_for   text,
    reason       text        NOT NULL,
    discarded_by text        NOT NULL DEFAULT session_user,
    discarded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pillarbox.consumer_discards IS 'every parked event whose effect somebody gave up; without its payload';

INSERT INTO pillarbox.consumer_migrations (version, name) VALUES (2, 'parked');
