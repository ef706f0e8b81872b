# What a user or a contributor types. Parts live in mk/, one topic a file.

# Everything that is built or fetched stays outside the clone, so that a fresh clone is warm.
SLUICE_CACHE ?= $(HOME)/.cache/sluice
CARGO_TARGET_DIR ?= $(SLUICE_CACHE)/target
export SLUICE_CACHE CARGO_TARGET_DIR
# cargo counts its own jobs: those of make are not handed on to it, and it would warn about that.
CARGO := MAKEFLAGS= cargo
export PATH := $(SLUICE_CACHE)/tools/bin:$(HOME)/.cargo/bin:$(PATH)

CARGO_BIN := $(CARGO_TARGET_DIR)/release

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

include $(sort $(wildcard mk/*.mk))

.PHONY: own-target
own-target:
	@mk/own-target.sh workspace

.PHONY: build
build: own-target ## Build the operator, the dataplane, the harness
	$(CARGO) build --release --workspace --bins

# Go builds what clusters need while Rust builds ours: neither keeps two cores busy to its end.
.PHONY: ready
ready: ## Install and build all that tests and demo need (half an hour once)
	@tools/install.sh machine
	@$(MAKE) --no-print-directory --jobs=2 tools guests build

.PHONY: generate
generate: own-target ## Write the generated files: resource definitions, JSON Schemas, the chart's copies
	cargo run --release --quiet -p sluice-crds -- crds/yaml
	$(MAKE) chart-crds

.PHONY: test
test: ready ## All tests: unit, planner transcripts, API server, full cluster
	cargo test --release --workspace
	@echo "--- on clusters of this machine"
	cargo test --release --workspace -- --ignored --test-threads=1 --skip steady_state --skip ::every_

.PHONY: test-full
test-full: test ## The same, then a crash at every write, lost events, stale answers, every field wrong: an hour
	cargo test --release --workspace --test operator -- --ignored --nocapture --test-threads=3 ::every_

.PHONY: test-steady
test-steady: ready ## Ten minutes with 50 units in which nothing may be written but Leases
	cargo test --release --workspace --test operator -- --ignored --nocapture steady_state

.PHONY: demo
demo: ready ## The whole story on a real cluster; leaves it up
	$(CARGO_BIN)/demo

.PHONY: demo-down
demo-down: ## Remove all that `make demo` left up
	$(CARGO_BIN)/cluster down --name demo
