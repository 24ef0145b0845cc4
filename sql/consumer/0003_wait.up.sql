-- Read-your-writes: whether a consumer has applied everything that a receipt names. The relay gives
-- receipts: `<pipeline>:<topic>/<partition>=<sequence>,...`, for each partition the sequence of the last
-- event that must be applied. A partition without a later event needs none: sequences are compared, and
-- what is asked for is an event that is there.
--
--   stored row                                    the target
--   none, or a smaller sequence                   not applied yet
--   the same or a larger sequence                 applied, unless an event up to it is parked
--
-- SQLSTATEs: PB004 not a receipt, PB005 a receipt of a pipeline that the consumer does not read.
--
-- Who waits holds shared advisory locks while it waits; whoever moves a row tries to take one of them alone,
-- to the end of its transaction, and announces the move where that fails. So:
--
--   nobody waits                          one attempt at a lock in memory, no NOTIFY
--   a row moves, then somebody waits      the waiter gets its lock after that COMMIT, and sees the row
--   somebody waits, then a row moves      announced with that COMMIT
--   a waiter dies                         its locks go with its session
--
-- No isolation level hides a lock, and nothing of a waiter can be left behind.
--
-- Two locks for each partition, so that a consumer which is far behind does not announce each of its steps:
-- one for the 64 sequences among which the target is, which a step inside of them takes, and one for the
-- partition, which every other move takes: a step from one 64 to the next, a leap, a first contact.

-- The lock of a partition; also what is announced.
CREATE FUNCTION pillarbox.wait_key(consumer text, source text, topic text, partition integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(consumer || ' ' || source || ' ' || topic, partition);

-- The lock of the 64 sequences with this one.
CREATE FUNCTION pillarbox.wait_key(consumer text, source text, topic text, partition integer, sequence bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(consumer || ' ' || source || ' ' || topic || ' ' || sequence / 64, partition);

-- Called only where somebody waits.
CREATE FUNCTION pillarbox.announce(consumer text, source text, topic text, partition integer) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $announce$
BEGIN
    PERFORM pg_notify('pillarbox_applied', pillarbox.wait_key(consumer, source, topic, partition)::text);
END
$announce$;

-- The functions of 0001, which announce now.
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
    IF NOT pg_try_advisory_xact_lock(pillarbox.wait_key(accept_store.consumer, accept_store.source, accept_store.topic,
            accept_store.partition)) THEN
        PERFORM pillarbox.announce(accept_store.consumer, accept_store.source, accept_store.topic,
            accept_store.partition);
    END IF;
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
        -- The one announcement that nearly every event comes by is written out: a call costs more than the lock.
        IF NOT pg_try_advisory_xact_lock(hashtextextended(
                accept.consumer || ' ' || given_source || ' ' || accept.topic
                || CASE WHEN given_sequence % 64 = 0 THEN '' ELSE ' ' || given_sequence / 64 END,
                accept.partition)) THEN
            PERFORM pillarbox.announce(accept.consumer, given_source, accept.topic, accept.partition);
        END IF;
        RETURN true;
    END IF;

    LOOP
        SELECT p.position, p.sequence INTO stored_position, stored_sequence
          FROM pillarbox.consumer_positions p
         WHERE p.consumer = accept.consumer COLLATE "C" AND p.source = given_source COLLATE "C"
           AND p.topic = accept.topic COLLATE "C" AND p.partition = accept.partition;
        IF NOT FOUND THEN
            INSERT INTO pillarbox.consumer_positions
                (consumer, source, topic, partition, position, sequence, kafka_offset)
            VALUES (accept.consumer, given_source, accept.topic, accept.partition, given_position, given_sequence,
                    accept.kafka_offset)
            ON CONFLICT (consumer, source, topic, partition) DO NOTHING;
            -- Else another owner was first: look again.
            EXIT WHEN FOUND;
        ELSE
            verdict := pillarbox.accept_rule(stored_position, stored_sequence, given_position, given_sequence,
                accept.strict);
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
    IF stored_sequence IS NULL THEN
        IF NOT pg_try_advisory_xact_lock(pillarbox.wait_key(accept.consumer, given_source, accept.topic,
                accept.partition)) THEN
            PERFORM pillarbox.announce(accept.consumer, given_source, accept.topic, accept.partition);
        END IF;
    ELSE
        PERFORM pillarbox.accept_store(accept.consumer, given_source, accept.topic, accept.partition,
            given_position, given_sequence, accept.kafka_offset);
    END IF;
    RETURN true;
END
$accept$;

-- A parked event was replayed, or given up: rare enough for a trigger.
CREATE FUNCTION pillarbox.announce_parked() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $announce$
BEGIN
    PERFORM pillarbox.announce(OLD.consumer, OLD.source, OLD.topic, OLD.partition);
    RETURN NULL;
END
$announce$;

CREATE TRIGGER announce AFTER DELETE ON pillarbox.consumer_parked FOR EACH ROW
WHEN (NOT pg_try_advisory_xact_lock(pillarbox.wait_key(OLD.consumer, OLD.source, OLD.topic, OLD.partition)))
EXECUTE FUNCTION pillarbox.announce_parked();

-- What a receipt asks for, a row per partition.
CREATE FUNCTION pillarbox.receipt_targets(
    receipt text, OUT source text, OUT topic text, OUT partition integer, OUT sequence bigint
) RETURNS SETOF record
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $targets$
BEGIN
    IF (receipt COLLATE "C" ~ '^[a-z][a-z0-9_]*:([a-zA-Z0-9._-]+/[0-9]+=[0-9]+(,[a-zA-Z0-9._-]+/[0-9]+=[0-9]+)*)?$'
        AND receipt COLLATE "C" !~ '[0-9]{19}|/[0-9]{10}') IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PB004',
            MESSAGE = CASE WHEN receipt COLLATE "C" ~ '^[0-9]+:[0-9]+:[0-9A-F]+/[0-9A-F]+$'
                THEN 'this is a token of the source, not a receipt' ELSE 'not a receipt' END,
            DETAIL = 'Expected <pipeline>:<topic>/<partition>=<sequence>,...',
            HINT = 'The relay gives the receipt of a token or an event id: GET /api/v1/events?token=..&wait=5';
    END IF;
    source := split_part(receipt, ':', 1);
    RETURN QUERY
        SELECT receipt_targets.source, split_part(t, '/', 1), split_part(split_part(t, '/', 2), '=', 1)::integer,
               split_part(t, '=', 2)::bigint
          FROM string_to_table(split_part(receipt, ':', 2), ',') t WHERE t <> '';
END
$targets$;

-- True: everything that the receipt names has been applied, in transactions that are committed.
CREATE FUNCTION pillarbox.applied(receipt text, consumer text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $applied$
#variable_conflict use_column
DECLARE
    missing record;
BEGIN
    SELECT t.source, t.topic, p.sequence INTO missing
      FROM pillarbox.receipt_targets(applied.receipt) t
      LEFT JOIN pillarbox.consumer_positions p
        ON p.consumer = applied.consumer COLLATE "C" AND p.source = t.source COLLATE "C"
       AND p.topic = t.topic COLLATE "C" AND p.partition = t.partition
     WHERE p.sequence IS NULL OR p.sequence < t.sequence
        OR EXISTS (SELECT FROM pillarbox.consumer_parked k
                    WHERE k.consumer = applied.consumer COLLATE "C" AND k.source = t.source COLLATE "C"
                      AND k.topic = t.topic COLLATE "C" AND k.partition = t.partition AND k.sequence <= t.sequence)
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    -- It reads the topic, and what it reads there is of somebody else.
    IF missing.sequence IS NULL
       AND EXISTS (SELECT FROM pillarbox.consumer_positions p
                    WHERE p.consumer = applied.consumer COLLATE "C" AND p.topic = missing.topic COLLATE "C")
       AND NOT EXISTS (SELECT FROM pillarbox.consumer_positions p
                        WHERE p.consumer = applied.consumer COLLATE "C" AND p.source = missing.source COLLATE "C")
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PB005',
            MESSAGE = format('consumer "%s" has applied nothing of pipeline %s, but events of others in topic %s',
                applied.consumer, missing.source, missing.topic),
            HINT = 'Is it a receipt of another relay? That of a new pipeline is good once its first event is applied.';
    END IF;
    RETURN false;
END
$applied$;

-- Waits until applied() is true; false after the timeout. No function can be woken by another transaction:
-- this one looks, and sleeps for 1 ms, 2, 4 and so on up to 20 in between. Its caller's snapshot is kept
-- meanwhile, so that old versions of the rows that consumers move cannot be taken away: for scripts, and for
-- short waits. Clients that can LISTEN need neither: wait_begin().
CREATE FUNCTION pillarbox.wait(receipt text, consumer text, timeout interval DEFAULT '10 seconds') RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $wait$
DECLARE
    until   timestamptz := clock_timestamp() + wait.timeout;
    seconds double precision := 0.001;
    rest    double precision;
BEGIN
    PERFORM pillarbox.wait_isolation();
    LOOP
        IF pillarbox.applied(wait.receipt, wait.consumer) THEN
            RETURN true;
        END IF;
        rest := extract(epoch FROM until - clock_timestamp());
        IF (rest > 0) IS NOT TRUE THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(seconds, rest));
        seconds := least(seconds * 2, 0.02);
    END LOOP;
END
$wait$;

-- A transaction with one snapshot would wait for what it cannot see.
CREATE FUNCTION pillarbox.wait_isolation() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $isolation$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE invalid_transaction_state USING
            MESSAGE = 'waiting needs READ COMMITTED: this transaction never sees what is applied from now on',
            HINT = 'Wait first, then begin the transaction that reads.';
    END IF;
END
$isolation$;

-- For clients that LISTEN: after LISTEN pillarbox_applied, in a statement of its own, this says whether
-- everything is applied; if not, each move of one of the receipt's partitions is announced to the session
-- from now on (payload: wait_key() of it), until wait_end(). It waits for transactions that are moving them
-- at this moment, at most for lock_timeout: after an error of it, end the session or pg_advisory_unlock_all().
CREATE FUNCTION pillarbox.wait_begin(receipt text, consumer text) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $begin$
BEGIN
    PERFORM pillarbox.wait_isolation();
    -- The locks take room in the server's lock table.
    IF (SELECT count(*) > 256 FROM pillarbox.receipt_targets(wait_begin.receipt)) THEN
        RAISE program_limit_exceeded USING
            MESSAGE = 'a receipt to wait for has at most 256 partitions',
            HINT = 'Ask the relay for one topic, or for the ids of the events that matter.';
    END IF;
    -- What it raises, it raises before there is a lock.
    PERFORM pillarbox.applied(wait_begin.receipt, wait_begin.consumer);
    PERFORM pg_advisory_lock_shared(pillarbox.wait_key(wait_begin.consumer, t.source, t.topic, t.partition)),
            pg_advisory_lock_shared(pillarbox.wait_key(wait_begin.consumer, t.source, t.topic, t.partition, t.sequence))
       FROM pillarbox.receipt_targets(wait_begin.receipt) t;
    RETURN pillarbox.applied(wait_begin.receipt, wait_begin.consumer);
END
$begin$;

-- Once for each wait_begin() that has returned, with the same arguments.
CREATE FUNCTION pillarbox.wait_end(receipt text, consumer text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $end$
BEGIN
    PERFORM pg_advisory_unlock_shared(pillarbox.wait_key(wait_end.consumer, t.source, t.topic, t.partition)),
            pg_advisory_unlock_shared(pillarbox.wait_key(wait_end.consumer, t.source, t.topic, t.partition, t.sequence))
       FROM pillarbox.receipt_targets(wait_end.receipt) t;
END
$end$;

COMMENT ON FUNCTION pillarbox.applied(text, text)
    IS 'whether a consumer has applied everything that a receipt of the relay names';
COMMENT ON FUNCTION pillarbox.wait(text, text, interval)
    IS 'waits until applied(), by looking again and again; false after the timeout';
COMMENT ON FUNCTION pillarbox.wait_begin(text, text)
    IS 'applied(), and from now on moves are announced to LISTEN pillarbox_applied';
COMMENT ON FUNCTION pillarbox.wait_end(text, text) IS 'ends what wait_begin() began';

REVOKE EXECUTE ON FUNCTION pillarbox.applied(text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.wait(text, text, interval) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.wait_begin(text, text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.wait_end(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.wait_key(text, text, text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.wait_key(text, text, text, integer, bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.announce(text, text, text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.announce_parked() TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.receipt_targets(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.wait_isolation() TO PUBLIC;

INSERT INTO pillarbox.consumer_migrations (version, name) VALUES (3, 'wait');
