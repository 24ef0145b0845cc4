-- Read-your-writes: pillarbox.token() names a place in WAL that lies behind every transaction which
-- committed before the call: `<system identifier>:<timeline>:<LSN>`. The relay's interface says whether
-- everything up to there has reached Kafka, and where it went.
--
-- Only a call after COMMIT will do. A transaction has its place in WAL where its commit record lies, and
-- before COMMIT there is none: an LSN that is read inside it lies before it, and other transactions may
-- commit in between, so that whoever waits for that LSN is told yes too early.

CREATE FUNCTION pillarbox.token() RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $token$
DECLARE
    lsn    pg_lsn;
    ignore pg_lsn;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE active_sql_transaction USING
            MESSAGE = 'pillarbox.token: this transaction has written, and has no place in WAL before its COMMIT',
            HINT = 'Call it after COMMIT, as a statement of its own.';
    END IF;
    -- Not the end of what is flushed: a transaction with synchronous_commit = off is visible before.
    lsn := pg_current_wal_insert_lsn();
    -- The relay sees WAL once it is flushed, and the end of a page that others are still writing may not be
    -- for long. A message of no meaning has it flushed: at once from Postgres 17 on, else by the WAL writer.
    IF pg_current_wal_flush_lsn() < lsn THEN
        IF current_setting('server_version_num')::integer >= 170000 THEN
            EXECUTE 'SELECT pg_logical_emit_message(false, ''pillarbox.token'', '''', true)' INTO ignore;
        ELSE
            ignore := pg_logical_emit_message(false, 'pillarbox.token', '');
        END IF;
    END IF;
    RETURN format('%s:%s:%s', (SELECT system_identifier FROM pg_control_system()),
        -- The timeline is in the name of every file of WAL; the control file has it only after a checkpoint.
        ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::integer, lsn);
END
$token$;

COMMENT ON FUNCTION pillarbox.token()
    IS 'a place behind everything that has committed, for whoever waits until it was relayed';

-- It tells how much WAL is written, and may have some flushed.
REVOKE EXECUTE ON FUNCTION pillarbox.token() FROM PUBLIC;

INSERT INTO pillarbox.migrations (version, name) VALUES (3, 'token');
