// An order and its event, in one transaction.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"
)

var errChangedMind = errors.New("the customer changed their mind")

func place(ctx context.Context, tx pgx.Tx, order string) (id string, err error) {
	if _, err = tx.Exec(ctx, "INSERT INTO orders (id, state) VALUES ($1, 'placed')", order); err != nil {
		return "", err
	}
	event := map[string]string{"id": order, "state": "placed"}
	// The cast chooses among the forms: jsonb here, which pgx makes of a map; without it, a string is text.
	emit := "SELECT pillarbox.emit('order', $1, 'OrderPlaced', $2::jsonb)::text"
	err = tx.QueryRow(ctx, emit, order, event).Scan(&id)
	return id, err
}

func main() {
	ctx := context.Background()
	// An empty connection string: everything comes from the PG* variables.
	connection, err := pgx.Connect(ctx, "")
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close(ctx)

	var id string
	err = pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) (err error) {
		id, err = place(ctx, tx, "pgx-1")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id)

	// Rolled back: no order, no event.
	err = pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		if _, err := place(ctx, tx, "pgx-2"); err != nil {
			return err
		}
		return errChangedMind
	})
	if !errors.Is(err, errChangedMind) {
		log.Fatal(err)
	}
}
