# `make ci` is what every change has to pass, cheapest first; each step also runs by its name.
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NESTED      := internal/h2test webhookprom channels/porcupine queue queue/embedded queue/cmd/webhook-worker queue/examples/fleet examples/ssrf examples/otel examples/pusher-server examples/pusher-server/e2e/goreceiver bench
FUZZ        := FuzzEventRoundTrip FuzzVerify FuzzFilter FuzzConfigJSON FuzzHeaders FuzzTakeBody
JSFUZZ      := FuzzAppend FuzzString FuzzFloat
QUEUEFUZZ   := FuzzGroup FuzzRecord FuzzLetter
FUZZTIME    := 5000x # a number of inputs: a time that runs out in the middle of one is a failure now and then

.PHONY: ci fmt vet staticcheck tidy test race fuzz quickstart benchmarks bench-quick bench soak-quick soak fleet e2e vuln

ci: fmt vet staticcheck tidy test race fuzz quickstart benchmarks bench-quick soak-quick e2e

fmt:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }

# Every one of these runs in the root module and in each nested one.
define in-each-module
set -e; for module in . $(NESTED); do echo "== $$module"; (cd $$module && $(1)); done
endef

vet:
	$(call in-each-module,go vet ./...)

staticcheck:
	$(call in-each-module,go run $(STATICCHECK) ./...)

tidy:
	$(call in-each-module,go mod tidy -diff)

test: # the README's test command
	go test ./...

race: # the nested modules two at a time: they wait for elections, leases and disks more than they compute
	go test -race ./...
	printf '%s\n' $(NESTED) | xargs -P 2 -I{} sh -c 'out=$$(cd {} && go test -race ./... 2>&1); rc=$$?; printf "== %s\n%s\n" "{}" "$$out"; exit $$rc'

fuzz: # for each target a moment; for more: make fuzz FUZZTIME=10m
	set -e; for target in $(FUZZ); do go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) .; done
	set -e; for target in $(JSFUZZ); do go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) ./internal/jsjson; done
	go test -run '^$$' -fuzz '^FuzzScan$$' -fuzztime $(FUZZTIME) ./webhookspool
	set -e; cd queue; for target in $(QUEUEFUZZ); do go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) .; done

quickstart:
	go run ./examples/quickstart

benchmarks: # each once, so that none rots
	go test -run '^$$' -bench . -benchtime 1x .

bench-quick:
	cd bench && go run . -quick

vuln: # known vulnerabilities in what the modules call; asks vuln.go.dev, so it is not part of ci, which needs no network but for modules
	$(call in-each-module,go run $(GOVULNCHECK) ./...)

bench: # the tables and the chart of the README; takes some minutes and a quiet machine
	cd bench && go run . -svg ../docs/end-to-end.svg

soak-quick: # the accounts, with the race detector
	cd bench && go run -race ./soak -quick

soak: # ten minutes with everything that can go wrong, see docs/soak.md; takes half of two cores
	cd bench && go run ./soak

fleet: # three servers, two nodes and two workers, 20 kills of each, and the long versions of the queue's tests; a quarter of an hour
	cd queue/examples/fleet && go run . -long
	cd queue/embedded && EMBEDDED_LONG=1 go test -count=1 -v -run TestADeadEndpoint . # a million events for it
	cd queue/embedded && FLEET_KILLS=20 go test -count=1 -v -timeout 30m ./fleet

e2e: # real Pusher clients and a browser; installs what it needs
	examples/pusher-server/e2e/run
