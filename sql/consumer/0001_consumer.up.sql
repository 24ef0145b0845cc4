-- The consumer's half of exactly once: one row per partition that says what was applied last, changed
-- in the transaction that applies it. Installed into the database of the consumer, which may be
-- another one than that of the outbox.
--
-- The rule, by which pillarbox.accept_rule() alone decides. An event has position P and sequence S
-- (header pb-pos: `<pipeline>:<P>:<S>`), the row holds p and s:
--
--   no row                  apply       strict: only if S = 1, else gap
--   S <= s     and P <= p   duplicate
--   S = s + 1  and P > p    apply
--   S > s + 1  and P > p    gap         events in between are missing
--   anything else           foreign     another history, or a corrupt one
--
-- SQLSTATEs: PB001 gap, PB002 foreign, PB003 pb-pos missing or malformed.
--
-- No function has an EXCEPTION block: each would cost a subtransaction per event. None is SECURITY
-- DEFINER: whoever calls them needs the rights on the tables, which other programs use with the
-- same rule. Every text is compared by bytes, so that a locale that changes breaks nothing.

CREATE SCHEMA IF NOT EXISTS pillarbox;

CREATE TABLE pillarbox.consumer_migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pillarbox.consumer_migrations IS 'which numbered migrations of the consumer''s side have been applied';

-- No CHECK constraints: the server would parse them anew in every statement that changes the row.
-- Half of each page stays free, so that an update finds room beside the old row and touches no index.
CREATE TABLE pillarbox.consumer_positions (
    consumer     text COLLATE "C" NOT NULL,
    source       text COLLATE "C" NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer          NOT NULL,
    position     text COLLATE "C" NOT NULL,
    sequence     bigint           NOT NULL,
    kafka_offset bigint,
    updated_at   timestamptz      NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, source, topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE pillarbox.consumer_positions IS 'the event that each consumer applied last, by partition';
COMMENT ON COLUMN pillarbox.consumer_positions.source IS 'the pipeline, out of pb-pos';
COMMENT ON COLUMN pillarbox.consumer_positions.position IS '32 lower-case hex digits: the order of the text is the order of events';
COMMENT ON COLUMN pillarbox.consumer_positions.kafka_offset IS 'of the event applied last, if the caller said it: reading goes on at + 1';

CREATE TABLE pillarbox.consumer_resets (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer     text        NOT NULL,
    source       text        NOT NULL,
    topic        text        NOT NULL,
    partition    integer     NOT NULL,
    old_position text,
    old_sequence bigint,
    next_pb_pos  text        NOT NULL,
    reason       text        NOT NULL,
    reset_by     text        NOT NULL DEFAULT session_user,
    reset_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pillarbox.consumer_resets IS 'every time that somebody decided where a consumer goes on';
COMMENT ON COLUMN pillarbox.consumer_resets.old_position IS 'NULL: nothing had been applied';
COMMENT ON COLUMN pillarbox.consumer_resets.next_pb_pos IS 'the event to be applied next';

-- `<pipeline>:<32 hex digits>:<1 to 2^63 - 1>`. Counts like {32} in the pattern would cost a state for
-- each character.
CREATE FUNCTION pillarbox.is_pb_pos(header text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(
    header COLLATE "C" ~ '^[a-z][a-z0-9_]*:[0-9a-f]+:[1-9][0-9]*$'
    AND octet_length(split_part(header, ':', 1)) <= 40
    AND octet_length(split_part(header, ':', 2)) = 32
    AND octet_length(split_part(header, ':', 3)) <= 19
    AND (octet_length(split_part(header, ':', 3)) < 19
         OR split_part(header, ':', 3) COLLATE "C" <= '9223372036854775807'), false);

CREATE FUNCTION pillarbox.accept_rule(
    stored_position text, stored_sequence bigint, given_position text, given_sequence bigint, strict boolean
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN stored_sequence IS NULL THEN
        CASE WHEN strict AND given_sequence <> 1 THEN 'gap' ELSE 'apply' END
    WHEN given_sequence <= stored_sequence AND given_position COLLATE "C" <= stored_position THEN 'duplicate'
    WHEN given_sequence > stored_sequence AND given_position COLLATE "C" > stored_position THEN
        CASE WHEN given_sequence = stored_sequence + 1 THEN 'apply' ELSE 'gap' END
    ELSE 'foreign'
END;

-- Raises what is wrong with the arguments, without repeating a header that may be anything.
CREATE FUNCTION pillarbox.accept_refuse_header(
    topic text, partition integer, pb_pos text, on_gap text, ordinal integer DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $refuse$
DECLARE
    part text := CASE
        WHEN split_part(pb_pos, ':', 1) COLLATE "C" !~ '^[a-z][a-z0-9_]{0,39}$' THEN 'the pipeline name'
        WHEN split_part(pb_pos, ':', 2) COLLATE "C" !~ '^[0-9a-f]{32}$' THEN 'the position'
        ELSE 'the sequence' END;
BEGIN
    IF on_gap IS NULL OR on_gap NOT IN ('error', 'warn') THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_gap must be ''error'' or ''warn''';
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'PB003',
        MESSAGE = format('an event in %s-%s has %s', topic, partition, CASE
            WHEN pb_pos IS NULL THEN 'no header pb-pos'
            ELSE 'a header pb-pos that is malformed: ' || part END),
        DETAIL = 'Expected <pipeline>:<32 hex digits>:<sequence>'
            || coalesce(format(', event %s of the batch.', ordinal), '.'),
        HINT = 'Only the relay''s own events can be told apart by position: find out who else writes to the topic.';
END
$refuse$;

-- Raises a gap or another history; returns only for a gap that shall be a warning.
CREATE FUNCTION pillarbox.accept_refuse_event(
    verdict text, on_gap text, consumer text, source text, topic text, partition integer,
    stored_position text, stored_sequence bigint, given_position text, given_sequence bigint
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $refuse$
DECLARE
    given   text := format('%s:%s:%s', source, given_position, given_sequence);
    missing text := CASE
        WHEN verdict <> 'gap' THEN NULL
        WHEN stored_sequence IS NULL THEN format('sequences 1 to %s', given_sequence - 1)
        ELSE format('sequences %s to %s', stored_sequence + 1, given_sequence - 1) END;
    stored  text := CASE
        WHEN stored_sequence IS NULL THEN 'Nothing applied yet'
        ELSE format('Applied last: %s:%s:%s', source, stored_position, stored_sequence) END;
BEGIN
    IF verdict = 'gap' AND on_gap = 'warn' THEN
        RAISE WARNING USING
            ERRCODE = 'PB001',
            MESSAGE = format('consumer "%s" goes on without %s of %s-%s', consumer, missing, topic, partition),
            DETAIL = format('%s, given: %s.', stored, given);
        RETURN;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = CASE verdict WHEN 'gap' THEN 'PB001' ELSE 'PB002' END,
        MESSAGE = CASE verdict
            WHEN 'gap' THEN format('consumer "%s" misses %s of %s-%s', consumer, missing, topic, partition)
            ELSE format('consumer "%s" was given an event of another history of %s-%s', consumer, topic, partition)
            END,
        DETAIL = format('%s, given: %s.', stored, given),
        HINT = format('%s To go on with this event: SELECT pillarbox.accept_reset(%L, %L, %s, %L, ''why'');',
            CASE verdict
                WHEN 'gap' THEN 'If the topic still holds what is missing, read it from there.'
                ELSE 'Was the topic made anew, or was a copy of the consumer''s database restored?' END,
            consumer, topic, partition, given);
END
$refuse$;

-- Writes a row that the caller has locked and judged.
CREATE FUNCTION pillarbox.accept_store(
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

-- True: apply the event, in this transaction. False: it was applied before.
CREATE FUNCTION pillarbox.accept(
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

-- The same for the events of one partition in the order of the log: gives the ordinals, from 1 on, of
-- those to apply. The first event of a source that is no duplicate goes through accept(), which locks
-- the row; the others are judged in memory, and the row is written once more at the end.
CREATE FUNCTION pillarbox.accept_batch(
    consumer      text,
    topic         text,
    partition     integer,
    pb_pos        text[],
    kafka_offsets bigint[] DEFAULT NULL,
    on_gap        text     DEFAULT 'error',
    strict        boolean  DEFAULT false
) RETURNS integer[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $accept$
#variable_conflict use_column
DECLARE
    accepted        integer[] := '{}';
    ordinal         integer := 0;
    header          text;
    current_source  text;
    locked          boolean := false;
    moved           boolean := false;
    given_source    text;
    given_position  text;
    given_sequence  bigint;
    stored_position text;
    stored_sequence bigint;
    stored_offset   bigint;
    verdict         text;
    gaps            integer := 0;
    missing         bigint := 0;
BEGIN
    IF cardinality(accept_batch.kafka_offsets) <> cardinality(accept_batch.pb_pos) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'kafka_offsets must be as long as pb_pos, or null';
    END IF;
    FOREACH header IN ARRAY accept_batch.pb_pos LOOP
        ordinal := ordinal + 1;
        IF (pillarbox.is_pb_pos(header) AND accept_batch.on_gap IN ('error', 'warn')) IS NOT TRUE THEN
            PERFORM pillarbox.accept_refuse_header(accept_batch.topic, accept_batch.partition, header,
                accept_batch.on_gap, ordinal);
        END IF;
        given_source := split_part(header, ':', 1);
        given_position := split_part(header, ':', 2);
        given_sequence := split_part(header, ':', 3)::bigint;
        IF given_source IS DISTINCT FROM current_source THEN
            IF moved THEN
                PERFORM pillarbox.accept_store(accept_batch.consumer, current_source, accept_batch.topic,
                    accept_batch.partition, stored_position, stored_sequence, stored_offset);
            END IF;
            current_source := given_source;
            locked := false;
            moved := false;
            SELECT p.position, p.sequence INTO stored_position, stored_sequence
              FROM pillarbox.consumer_positions p
             WHERE p.consumer = accept_batch.consumer COLLATE "C" AND p.source = given_source COLLATE "C"
               AND p.topic = accept_batch.topic COLLATE "C" AND p.partition = accept_batch.partition;
        END IF;

        verdict := pillarbox.accept_rule(stored_position, stored_sequence, given_position, given_sequence,
            accept_batch.strict);
        CONTINUE WHEN verdict = 'duplicate';
        IF NOT locked THEN
            locked := pillarbox.accept(accept_batch.consumer, accept_batch.topic, accept_batch.partition, header,
                accept_batch.kafka_offsets[ordinal], accept_batch.on_gap, accept_batch.strict);
            CONTINUE WHEN NOT locked;
        ELSE
            IF verdict = 'gap' AND accept_batch.on_gap = 'warn' THEN
                gaps := gaps + 1;
                missing := missing + given_sequence - stored_sequence - 1;
            ELSIF verdict <> 'apply' THEN
                PERFORM pillarbox.accept_refuse_event(verdict, accept_batch.on_gap, accept_batch.consumer,
                    given_source, accept_batch.topic, accept_batch.partition,
                    stored_position, stored_sequence, given_position, given_sequence);
            END IF;
            moved := true;
        END IF;
        stored_position := given_position;
        stored_sequence := given_sequence;
        stored_offset := accept_batch.kafka_offsets[ordinal];
        accepted := accepted || ordinal;
    END LOOP;
    IF moved THEN
        PERFORM pillarbox.accept_store(accept_batch.consumer, current_source, accept_batch.topic,
            accept_batch.partition, stored_position, stored_sequence, stored_offset);
    END IF;
    -- One for all: a compacted topic may have a gap at every other event.
    IF gaps > 0 THEN
        RAISE WARNING USING
            ERRCODE = 'PB001',
            MESSAGE = format('consumer "%s" goes on without %s more events of %s-%s', accept_batch.consumer, missing,
                accept_batch.topic, accept_batch.partition),
            DETAIL = format('There are %s more gaps in this batch.', gaps);
    END IF;
    RETURN accepted;
END
$accept$;

-- Lets a consumer go on with the event that pb_pos names, whatever was applied before. Past a gap the
-- row keeps its position and its offset; in another history it gets the position just before the
-- event's, and no offset.
CREATE FUNCTION pillarbox.accept_reset(
    consumer text, topic text, partition integer, pb_pos text, reason text
) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $reset$
#variable_conflict use_column
DECLARE
    given_source   text;
    given_position text;
    given_sequence bigint;
    old            record;
    digits         integer;
    new_position   text;
BEGIN
    IF NOT pillarbox.is_pb_pos(accept_reset.pb_pos) THEN
        PERFORM pillarbox.accept_refuse_header(accept_reset.topic, accept_reset.partition, accept_reset.pb_pos, 'error');
    ELSIF coalesce(btrim(accept_reset.reason), '') = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'pillarbox.accept_reset: say why, in reason';
    END IF;
    given_source := split_part(accept_reset.pb_pos, ':', 1);
    given_position := split_part(accept_reset.pb_pos, ':', 2);
    given_sequence := split_part(accept_reset.pb_pos, ':', 3)::bigint;
    digits := length(rtrim(given_position, '0'));
    IF digits = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'pillarbox.accept_reset: nothing comes before position 0';
    END IF;
    -- Minus one: the last digit that is not 0 becomes one less, every 0 behind it an f.
    new_position := left(given_position, digits - 1)
        || translate(substr(given_position, digits, 1), '123456789abcdef', '0123456789abcde')
        || repeat('f', 32 - digits);

    LOOP
        SELECT p.position, p.sequence, p.kafka_offset INTO old
          FROM pillarbox.consumer_positions p
         WHERE p.consumer = accept_reset.consumer COLLATE "C" AND p.source = given_source COLLATE "C"
           AND p.topic = accept_reset.topic COLLATE "C" AND p.partition = accept_reset.partition
           FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO pillarbox.consumer_positions (consumer, source, topic, partition, position, sequence)
        VALUES (accept_reset.consumer, given_source, accept_reset.topic, accept_reset.partition, new_position,
                given_sequence - 1)
        ON CONFLICT (consumer, source, topic, partition) DO NOTHING;
        EXIT WHEN FOUND;
    END LOOP;
    IF old.sequence IS NOT NULL THEN
        IF old.sequence < given_sequence AND old.position < given_position COLLATE "C" THEN
            PERFORM pillarbox.accept_store(accept_reset.consumer, given_source, accept_reset.topic,
                accept_reset.partition, old.position, given_sequence - 1, old.kafka_offset);
        ELSE
            PERFORM pillarbox.accept_store(accept_reset.consumer, given_source, accept_reset.topic,
                accept_reset.partition, new_position, given_sequence - 1, NULL);
        END IF;
    END IF;
    INSERT INTO pillarbox.consumer_resets
        (consumer, source, topic, partition, old_position, old_sequence, next_pb_pos, reason)
    VALUES (accept_reset.consumer, given_source, accept_reset.topic, accept_reset.partition, old.position,
            old.sequence, accept_reset.pb_pos, accept_reset.reason);
END
$reset$;

COMMENT ON FUNCTION pillarbox.accept(text, text, integer, text, bigint, text, boolean)
    IS 'true: apply the event in this transaction; false: it was applied before';
COMMENT ON FUNCTION pillarbox.accept_batch(text, text, integer, text[], bigint[], text, boolean)
    IS 'ordinals, from 1 on, of the events to apply in this transaction';
COMMENT ON FUNCTION pillarbox.accept_reset(text, text, integer, text, text)
    IS 'lets a consumer go on with an event, past a gap or into another history; audited in consumer_resets';

-- Who consumes, and who decides what may be lost, is granted. The others do nothing that their caller
-- could not do itself.
REVOKE EXECUTE ON FUNCTION pillarbox.accept(text, text, integer, text, bigint, text, boolean) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.accept_batch(text, text, integer, text[], bigint[], text, boolean) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.accept_reset(text, text, integer, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.is_pb_pos(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.accept_rule(text, bigint, text, bigint, boolean) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.accept_refuse_header(text, integer, text, text, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.accept_refuse_event(text, text, text, text, text, integer, text, bigint, text, bigint) TO PUBLIC;
GRANT EXECUTE ON FUNCTION pillarbox.accept_store(text, text, text, integer, text, bigint, bigint) TO PUBLIC;

INSERT INTO pillarbox.consumer_migrations (version, name) VALUES (1, 'consumer');
