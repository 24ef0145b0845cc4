"""Writes an invoice for each event once."""

import os
import signal
import sys

import psycopg
from confluent_kafka import Consumer, KafkaException


def apply(database, record):
    pb_pos = dict(record.headers() or []).get("pb-pos")
    place = [record.topic(), record.partition(), pb_pos and pb_pos.decode(), record.offset()]
    with database.transaction():
        accept = "SELECT pillarbox.accept('billing', %s, %s, %s, %s)"
        if database.execute(accept, place).fetchone()[0]:
            # The effect: in the same transaction, or it is not once.
            insert = "INSERT INTO invoices (order_id, content) VALUES (%s, %s)"
            database.execute(insert, [record.key().decode(), record.value().decode()])


consumer = Consumer({
    "bootstrap.servers": os.environ["KAFKA_BROKERS"],
    "group.id": os.environ["KAFKA_GROUP"],
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
})
consumer.subscribe([os.environ["KAFKA_TOPIC"]])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
try:
    # An empty conninfo: everything comes from the PG* variables.
    with psycopg.connect("", autocommit=True) as database:
        while not stop:
            record = consumer.poll(1)
            if record is None:
                continue
            if record.error():
                raise KafkaException(record.error())
            apply(database, record)
            consumer.commit(record)  # After the effect. A hint, not waited for: the database knows what was applied.
except psycopg.Error as error:
    if not (error.sqlstate or "").startswith("PB"):
        raise
    print(f"stopped at offset {record.offset()}: {error.sqlstate} {error}", file=sys.stderr)
    sys.exit(65)  # A gap or another history: starting again does not help, a person decides.
finally:
    consumer.close()
