// Writes an invoice for each event once.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"
)

func apply(ctx context.Context, tx pgx.Tx, record *kgo.Record) (err error) {
	pbPos, accepted := "", false
	for _, header := range record.Headers {
		if header.Key == "pb-pos" {
			pbPos = string(header.Value)
		}
	}
	accept := "SELECT pillarbox.accept('billing', $1, $2, $3, $4)"
	if err = tx.QueryRow(ctx, accept, record.Topic, record.Partition, pbPos, record.Offset).Scan(&accepted); accepted {
		// The effect: in the same transaction, or it is not once.
		_, err = tx.Exec(ctx, "INSERT INTO invoices (order_id, content) VALUES ($1, $2)", record.Key, record.Value)
	}
	return err
}

func main() {
	ctx := context.Background()
	stop, _ := signal.NotifyContext(ctx, syscall.SIGTERM)
	database, failed := pgx.Connect(ctx, "") // Everything comes from the PG* variables.
	consumer, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BROKERS"), ",")...),
		kgo.ConsumerGroup(os.Getenv("KAFKA_GROUP")), kgo.ConsumeTopics(os.Getenv("KAFKA_TOPIC")),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableAutoCommit())
	if err = errors.Join(failed, err); err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	for fetches := consumer.PollFetches(stop); stop.Err() == nil; fetches = consumer.PollFetches(stop) {
		if err = fetches.Err(); err != nil {
			log.Print(err) // The client tries again by itself.
		}
		for _, record := range fetches.Records() {
			err = pgx.BeginFunc(ctx, database, func(tx pgx.Tx) error { return apply(ctx, tx, record) })
			if refused := (*pgconn.PgError)(nil); errors.As(err, &refused) && strings.HasPrefix(refused.Code, "PB") {
				log.Printf("stopped at offset %d: %v %s", record.Offset, err, refused.Hint)
				os.Exit(65) // A gap or another history: starting again does not help, a person decides.
			} else if err != nil {
				log.Fatal(err)
			}
		}
		consumer.CommitUncommittedOffsets(ctx) // After the effects. A hint: the database knows what was applied.
	}
}
