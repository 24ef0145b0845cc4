-- Removes everything that 0001_pillarbox.up.sql created. Not removed: outbox tables, publication,
-- slot. Drop the slot too when no relay will come back, or it keeps WAL for ever:
--   SELECT pg_drop_replication_slot('pillarbox_<pipeline>');
--   DROP PUBLICATION pillarbox_<pipeline>;

DROP TABLE pillarbox.lineage;
DROP TABLE pillarbox.migrations;

-- The consumer's side may live in the same schema.
DO $drop$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_depend
                   WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'pillarbox'::regnamespace) THEN
        DROP SCHEMA pillarbox;
    END IF;
END
$drop$;
