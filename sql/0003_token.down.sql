-- Removes the function. Tokens that were taken before stay good: the relay needs nothing of it.

DROP FUNCTION pillarbox.token();
DELETE FROM pillarbox.migrations WHERE version = 3;
