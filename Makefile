# `make ci` is what every change has to pass; each step also runs by its name.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    := 5s
FUZZ        := FuzzEventRoundTrip FuzzRawData FuzzVerify FuzzFilter FuzzConfigJSON FuzzHeaders

.PHONY: ci fmt vet staticcheck tidy test race fuzz quickstart

ci: fmt vet staticcheck tidy test race fuzz quickstart

fmt:
	test -z "$$(gofmt -l $$(git ls-files "*.go"))" || { gofmt -d $$(git ls-files "*.go"); exit 1; }

vet:
	go vet ./...

staticcheck:
	go run $(STATICCHECK) ./...

tidy:
	go mod tidy -diff

test: # the README's test command
	go test ./...

race:
	go test -race ./...

fuzz:
	set -e; for target in $(FUZZ); do go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) .; done

quickstart:
	go run ./examples/quickstart
