-- Undoes 0002_parked.up.sql. What is still parked is lost with it.

DROP TABLE pillarbox.consumer_discards;
DROP TABLE pillarbox.consumer_parked;
DELETE FROM pillarbox.consumer_migrations WHERE version = 2;
