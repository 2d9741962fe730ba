module github.com/pusherhooks/webhook/channels/porcupine

go 1.26

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/pusherhooks/webhook v0.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace github.com/pusherhooks/webhook => ../../
