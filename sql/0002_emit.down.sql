-- Removes the functions. Events that were emitted and not relayed yet are in WAL and still relayed.

DROP FUNCTION pillarbox.emit(text, text, text, jsonb, jsonb, uuid);
DROP FUNCTION pillarbox.emit(text, text, text, text, jsonb, uuid);
DROP FUNCTION pillarbox.emit(text, text, text, bytea, jsonb, uuid);
DELETE FROM pillarbox.migrations WHERE version = 2;
