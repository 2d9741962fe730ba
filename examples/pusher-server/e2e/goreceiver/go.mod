module github.com/pusherhooks/webhook/examples/pusher-server/e2e/goreceiver

go 1.26.0

require github.com/pusher/pusher-http-go/v5 v5.1.1

require (
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
