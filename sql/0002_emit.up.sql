-- Events without a table: pillarbox.emit() writes an event into WAL, as a logical message of the
-- calling transaction. It is relayed if and when that transaction commits, and there is nothing to
-- clean up.
--
-- The message is what record_send makes of the row (id uuid, aggregatetype, aggregateid, type, headers
-- bytea, payload): it ends with the payload as it is. Headers are a row as the replication stream writes
-- it: a 16-bit count, then names and values in turns, each 'n', or 't' with a 32-bit length and bytes.
-- Text is UTF-8 whatever the encodings of database and session.
--
-- A call with neither headers nor another encoding is done by one declaration and one condition, because
-- in plpgsql each expression costs about what it computes. Everything else goes the long way, which is that
-- of bytea payloads.

CREATE FUNCTION pillarbox.emit(
    aggregate_type text,
    aggregate_id   text,
    type           text,
    payload        bytea,
    headers        jsonb DEFAULT '{}',
    id             uuid  DEFAULT gen_random_uuid()
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $emit$
DECLARE
    own bytea;
    lsn pg_lsn;
BEGIN
    -- What could never be published is refused here, where the caller still knows what it is.
    IF aggregate_type IS NULL OR id IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'pillarbox.emit: aggregate_type and id must not be null';
    ELSIF octet_length(payload) > 64000000 THEN
        RAISE program_limit_exceeded USING MESSAGE = 'pillarbox.emit: a payload has at most 64000000 bytes',
            HINT = 'Store it elsewhere and emit a reference.';
    ELSIF headers <> '{}' THEN
        IF jsonb_typeof(headers) <> 'object' THEN
            RAISE invalid_parameter_value USING MESSAGE = 'pillarbox.emit: headers must be a JSON object';
        ELSIF headers ?| ARRAY['', 'id', 'pb-pos', 'pb-part', 'pb-ts', 'pb-orig-pos'] THEN
            RAISE invalid_parameter_value
                USING MESSAGE = 'pillarbox.emit: a header has no name, or one that the relay writes itself';
        END IF;
        SELECT set_byte('\x0000', 1, 2 * count(*)::integer) || string_agg(
                   '\x74'::bytea || int4send(octet_length(convert_to(key, 'UTF8'))) || convert_to(key, 'UTF8')
                   || coalesce('\x74'::bytea || int4send(octet_length(convert_to(value, 'UTF8')))
                               || convert_to(value, 'UTF8'), '\x6e'), '')
          INTO own FROM jsonb_each_text(headers) HAVING count(*) <= 12;
        IF own IS NULL THEN
            RAISE program_limit_exceeded
                USING MESSAGE = 'pillarbox.emit: an event has at most 12 headers of its own';
        END IF;
    END IF;
    lsn := pg_logical_emit_message(true, 'outbox', record_send(ROW(
        id, convert_to(aggregate_type, 'UTF8'), convert_to(aggregate_id, 'UTF8'), convert_to(type, 'UTF8'),
        own, payload)));
    RETURN id;
END
$emit$;

CREATE FUNCTION pillarbox.emit(
    aggregate_type text,
    aggregate_id   text,
    type           text,
    payload        text,
    headers        jsonb DEFAULT '{}',
    id             uuid  DEFAULT gen_random_uuid()
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $emit$
DECLARE
    -- Text in the session's encoding.
    message bytea := record_send(ROW(id, aggregate_type, aggregate_id, type, NULL::bytea, payload));
BEGIN
    IF aggregate_type IS NOT NULL AND id IS NOT NULL AND headers = '{}'
        AND pg_client_encoding() = 'UTF8' AND octet_length(message) <= 64000000
        AND pg_logical_emit_message(true, 'outbox', message) IS NOT NULL
    THEN
        RETURN id;
    END IF;
    RETURN pillarbox.emit(aggregate_type, aggregate_id, type, convert_to(payload, 'UTF8'), headers, id);
END
$emit$;

CREATE FUNCTION pillarbox.emit(
    aggregate_type text,
    aggregate_id   text,
    type           text,
    payload        jsonb,
    headers        jsonb DEFAULT '{}',
    id             uuid  DEFAULT gen_random_uuid()
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $emit$
DECLARE
    message bytea := record_send(ROW(id, aggregate_type, aggregate_id, type, NULL::bytea, payload));
BEGIN
    IF aggregate_type IS NOT NULL AND id IS NOT NULL AND headers = '{}'
        AND pg_client_encoding() = 'UTF8' AND octet_length(message) <= 64000000
        AND pg_logical_emit_message(true, 'outbox', message) IS NOT NULL
    THEN
        RETURN id;
    END IF;
    RETURN pillarbox.emit(aggregate_type, aggregate_id, type, convert_to(payload::text, 'UTF8'), headers, id);
END
$emit$;

COMMENT ON FUNCTION pillarbox.emit(text, text, text, bytea, jsonb, uuid) IS 'emits an event, its payload byte for byte';
COMMENT ON FUNCTION pillarbox.emit(text, text, text, text, jsonb, uuid) IS 'emits an event, its payload character for character in UTF-8';
COMMENT ON FUNCTION pillarbox.emit(text, text, text, jsonb, jsonb, uuid) IS 'emits an event, its payload as jsonb is written';

-- Whoever may execute it publishes events: that is granted, not given.
REVOKE EXECUTE ON FUNCTION pillarbox.emit(text, text, text, bytea, jsonb, uuid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.emit(text, text, text, text, jsonb, uuid) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pillarbox.emit(text, text, text, jsonb, jsonb, uuid) FROM PUBLIC;

INSERT INTO pillarbox.migrations (version, name) VALUES (2, 'emit');
