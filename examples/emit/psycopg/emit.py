"""An order and its event, in one transaction."""

import psycopg
from psycopg.types.json import Jsonb


def place(connection, order):
    connection.execute("INSERT INTO orders (id, state) VALUES (%s, 'placed')", [order])
    # Jsonb calls the jsonb form, bytes the bytea form; a plain str is text.
    event = Jsonb({"id": order, "state": "placed"})
    row = connection.execute("SELECT pillarbox.emit('order', %s, 'OrderPlaced', %s)", [order, event]).fetchone()
    return row[0]


# An empty conninfo: everything comes from the PG* variables.
with psycopg.connect("") as connection:
    with connection.transaction():
        print(place(connection, "psycopg-1"))

    # Rolled back: no order, no event.
    with connection.transaction(force_rollback=True):
        place(connection, "psycopg-2")
