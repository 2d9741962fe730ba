package main

import (
	"context"
	"log"
	"os"
)

func Example() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
	// Output:
	// HTTP POST (client): Error, http.response.status_code 503
	// HTTP POST (client): Error, http.response.status_code 503
	// HTTP POST (client): Unset, http.response.status_code 200
	// webhook delivery (internal): Unset, webhook.events 2
}
