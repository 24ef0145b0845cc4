-- Removes everything that 0001_consumer.up.sql created. What the consumers applied last is gone with
-- it: installed again, the first event that each of them meets counts as the first contact.

DROP FUNCTION pillarbox.accept_reset(text, text, integer, text, text);
DROP FUNCTION pillarbox.accept_batch(text, text, integer, text[], bigint[], text, boolean);
DROP FUNCTION pillarbox.accept(text, text, integer, text, bigint, text, boolean);
DROP FUNCTION pillarbox.accept_store(text, text, text, integer, text, bigint, bigint);
DROP FUNCTION pillarbox.accept_refuse_event(text, text, text, text, text, integer, text, bigint, text, bigint);
DROP FUNCTION pillarbox.accept_refuse_header(text, integer, text, text, integer);
DROP FUNCTION pillarbox.accept_rule(text, bigint, text, bigint, boolean);
DROP FUNCTION pillarbox.is_pb_pos(text);
DROP TABLE pillarbox.consumer_resets;
DROP TABLE pillarbox.consumer_positions;
DROP TABLE pillarbox.consumer_migrations;

-- The outbox's side may live in the same schema.
DO $drop$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_depend
                   WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'pillarbox'::regnamespace) THEN
        DROP SCHEMA pillarbox;
    END IF;
END
$drop$;
