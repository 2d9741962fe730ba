module github.com/pusherhooks/webhook/internal/h2test

go 1.26.0

replace github.com/pusherhooks/webhook => ../../

require (
	github.com/pusherhooks/webhook v0.0.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/net v0.61.0
)

require (
	github.com/hashicorp/go-cleanhttp v0.5.2 // indirect
	github.com/hashicorp/go-retryablehttp v0.7.8 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/text v0.43.0 // indirect
)
