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
	// trace 1: HTTP POST (client): Error, http.response.status_code 503
	// trace 1: webhook attempt (internal): Error, webhook.events 2
	// trace 1: HTTP POST (client): Error, http.response.status_code 503
	// trace 1: webhook attempt (internal): Error, webhook.events 2
	// trace 1: HTTP POST (client): Unset, http.response.status_code 200
	// trace 1: webhook attempt (internal): Unset, webhook.events 2
}
