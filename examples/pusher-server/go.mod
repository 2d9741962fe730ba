module github.com/pusherhooks/webhook/examples/pusher-server

go 1.26

replace github.com/pusherhooks/webhook => ../../

// Packages of npm are no packages of Go.
ignore ./e2e/node_modules

require (
	github.com/coder/websocket v1.8.15
	github.com/pusherhooks/webhook v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
