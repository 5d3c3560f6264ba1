# The everyday commands. Go is all they need (and a C compiler for the race detector).
GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
export CGO_ENABLED ?= 0
LDFLAGS := -s -w
# The real S3 server of tests and demo, built before they run so that none of them waits for it.
S3      := SLUICE_VERSITYGW=$$($(TOOL) -n versitygw)
# Rooms with goroutines and shared state, for the race detector.
RACE    := ./internal/rpc ./internal/blockstore ./internal/worker ./internal/master ./internal/fleet ./internal/shell ./internal/web ./client ./internal/journal ./underfs/...

.PHONY: all build demo test test-race test-e2e check format vet lint vuln bench soak docs clean

all: build

build: ## one static binary, bin/sluice
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice

demo: build ## the main job on real input, at most two minutes after the build
	@echo 'building the S3 server, if it is not there yet (a minute, once)'; $(S3) $(GO) run ./test/demo bin/sluice

test: ## all tests, and those that share state again under the race detector
	$(S3) $(GO) test -timeout 15m ./...
	@if command -v $${CC:-cc} >/dev/null; then s3=$$($(TOOL) -n versitygw); SLUICE_VERSITYGW=$$s3 CGO_ENABLED=1 $(GO) test -race -short -timeout 15m $(RACE); \
	else echo 'SKIPPED: the race detector needs a C compiler and there is none'; fi

check: format vet lint vuln test ## what a change must pass

format:
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	@out=$$($(GO) fix -diff -tags e2e ./...) || { echo "$$out"; echo 'go fix has something to say: run go fix -tags e2e ./...'; exit 1; }

vet:
	$(GO) vet -tags e2e ./...

lint:
	$(TOOL) staticcheck -tags e2e ./...

vuln: ## skipped, loudly, where the vulnerability database cannot be reached
	@mkdir -p bin; $(TOOL) govulncheck ./... >bin/.vuln 2>&1; status=$$?; \
	if [ $$status = 0 ]; then tail -n 1 bin/.vuln; \
	elif grep -q '^Vulnerability #' bin/.vuln; then cat bin/.vuln; exit 1; \
	elif grep -qE 'vuln\.go\.dev|no such host|dial tcp|connection|fetching vulnerabilities' bin/.vuln; then echo 'SKIPPED: govulncheck could not reach its data'; \
	else cat bin/.vuln; exit 1; fi

# The folders of tests that need real servers and programs.
E2E = $(sort $(dir $(shell grep -rl --include='*_test.go' '^//go:build e2e' test)))

test-e2e: build ## what takes real processes and servers for minutes; one package at a time
	@bash -o pipefail -c '$(S3) $(GO) test -v -p 1 -count=1 -timeout 35m -tags e2e $(E2E:%=./%) | tee bin/e2e.log'
	@grep -q '^--- PASS' bin/e2e.log || { echo 'FAILED: no end-to-end test ran'; exit 1; }
	@if grep -q '^ *--- SKIP' bin/e2e.log; then echo; echo 'SKIPPED, and not tried by this run:'; grep -A1 '^ *--- SKIP' bin/e2e.log; fi

bench: build ## the product's benchmark on this machine, with a real S3 server for the cold reads
	$(GO) run ./test/bench bin/sluice $(BENCH)

soak: build ## the long forms, by hand
	$(S3) SLUICE_SOAK=1 $(GO) test -v -count=1 -timeout 4h -tags e2e ./test/... ./cmd/...

docs: ## the generated pages of docs
	$(GO) run ./cmd/sluice docs --dir docs

clean:
	rm -rf bin dist
