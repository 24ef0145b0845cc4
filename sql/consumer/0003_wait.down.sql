-- Undoes 0003_wait.up.sql. Who waits at this moment is not woken any more, and times out.

DROP FUNCTION pillarbox.wait_end(text, text);
DROP FUNCTION pillarbox.wait_begin(text, text);
DROP FUNCTION pillarbox.wait(text, text, interval);
DROP FUNCTION pillarbox.wait_isolation();
DROP FUNCTION pillarbox.applied(text, text);
DROP FUNCTION pillarbox.receipt_targets(text);
DROP TRIGGER announce ON pillarbox.consumer_parked;
DROP FUNCTION pillarbox.announce_parked();

CREATE OR REPLACE FUNCTION pillarbox.accept_store(
    consumer text, source text, topic text, partition integer,
    new_position text, new_sequence bigint, kafka_offset bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $store$
#variable_conflict use_column
BEGIN
    UPDATE pillarbox.consumer_positions AS p
       SET position = new_position, sequence = new_sequence, kafka_offset = accept_store.kafka_offset,
           updated_at = clock_timestamp()
     WHERE p.consumer = accept_store.consumer COLLATE "C" AND p.source = accept_store.source COLLATE "C"
       AND p.topic = accept_store.topic COLLATE "C" AND p.partition = accept_store.partition;
END
$store$;

CREATE OR REPLACE FUNCTION pillarbox.accept(
    consumer     text,
    topic        text,
    partition    integer,
    pb_pos       text,
    kafka_offset bigint  DEFAULT NULL,
    on_gap       text    DEFAULT 'error',
    strict       boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $accept$
#variable_conflict use_column
DECLARE
    given_source    text;
    given_position  text;
    given_sequence  bigint;
    stored_position text;
    stored_sequence bigint;
    verdict         text;
BEGIN
    IF (pillarbox.is_pb_pos(accept.pb_pos) AND accept.on_gap IN ('error', 'warn')) IS NOT TRUE THEN
        PERFORM pillarbox.accept_refuse_header(accept.topic, accept.partition, accept.pb_pos, accept.on_gap);
    END IF;
    given_source := split_part(accept.pb_pos, ':', 1);
    given_position := split_part(accept.pb_pos, ':', 2);
    given_sequence := split_part(accept.pb_pos, ':', 3)::bigint;

    -- What nearly always happens: the next event, one update of one row. Another owner of the
    -- partition waits here until this transaction ends.
    UPDATE pillarbox.consumer_positions AS p
       SET position = given_position, sequence = given_sequence, kafka_offset = accept.kafka_offset,
           updated_at = clock_timestamp()
     WHERE p.consumer = accept.consumer COLLATE "C" AND p.source = given_source COLLATE "C"
       AND p.topic = accept.topic COLLATE "C" AND p.partition = accept.partition
       AND p.sequence = given_sequence - 1 AND p.position < given_position COLLATE "C";
    IF FOUND THEN
        RETURN true;
    END IF;

    LOOP
        SELECT p.position, p.sequence INTO stored_position, stored_sequence
          FROM pillarbox.consumer_positions p
         WHERE p.consumer = accept.consumer COLLATE "C" AND p.source = given_source COLLATE "C"
           AND p.topic = accept.topic COLLATE "C" AND p.partition = accept.partition;
        IF NOT FOUND THEN
            INSERT INTO pillarbox.consumer_positions (consumer, source, topic, partition, position, sequence, kafka_offset)
            VALUES (accept.consumer, given_source, accept.topic, accept.partition, given_position, given_sequence,
                    accept.kafka_offset)
            ON CONFLICT (consumer, source, topic, partition) DO NOTHING;
            -- Else another owner was first: look again.
            EXIT WHEN FOUND;
        ELSE
            verdict := pillarbox.accept_rule(stored_position, stored_sequence, given_position, given_sequence, accept.strict);
            -- It stays one whatever others do: no lock, and so no write for a topic that is read again.
            IF verdict = 'duplicate' THEN
                RETURN false;
            END IF;
            SELECT p.position, p.sequence INTO stored_position, stored_sequence
              FROM pillarbox.consumer_positions p
             WHERE p.consumer = accept.consumer COLLATE "C" AND p.source = given_source COLLATE "C"
               AND p.topic = accept.topic COLLATE "C" AND p.partition = accept.partition
               FOR NO KEY UPDATE;
            EXIT WHEN FOUND;
        END IF;
    END LOOP;

    verdict := pillarbox.accept_rule(stored_position, stored_sequence, given_position, given_sequence, accept.strict);
    IF verdict = 'duplicate' THEN
        RETURN false;
    ELSIF verdict <> 'apply' THEN
        PERFORM pillarbox.accept_refuse_event(verdict, accept.on_gap, accept.consumer, given_source, accept.topic,
            accept.partition, stored_position, stored_sequence, given_position, given_sequence);
    END IF;
    -- The row of a first contact was inserted as it shall be.
    IF stored_sequence IS NOT NULL THEN
        PERFORM pillarbox.accept_store(accept.consumer, given_source, accept.topic, accept.partition,
            given_position, given_sequence, accept.kafka_offset);
    END IF;
    RETURN true;
END
$accept$;

DROP FUNCTION pillarbox.announce(text, text, text, integer);
DROP FUNCTION pillarbox.wait_key(text, text, text, integer, bigint);
DROP FUNCTION pillarbox.wait_key(text, text, text, integer);
DELETE FROM pillarbox.consumer_migrations WHERE version = 3;
