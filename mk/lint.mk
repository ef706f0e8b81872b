# What a machine can say about the code: style, layers, dependencies, generated files. Quick checks come first.

# The prebuilt one where there is one, else built once from crates.io.
CARGO_DENY_VERSION := 0.20.2

.PHONY: lint
lint: lint-format lint-tidy lint-layers lint-shell chart-test lint-dependencies lint-generated lint-clippy ## Format, clippy, layers, licences, chart, generated files

.PHONY: lint-format
lint-format:
	cargo fmt --all --check
	cargo fmt --manifest-path examples/Cargo.toml --all --check

.PHONY: lint-tidy
lint-tidy:
	@mk/tidy.sh

.PHONY: lint-layers
lint-layers:
	@mk/layers.sh

.PHONY: lint-shell
lint-shell:
	@mk/shell.sh

.PHONY: lint-dependencies
lint-dependencies:
	@mk/cargo-deny.sh $(CARGO_DENY_VERSION) check -D unmatched-skip bans licenses sources

# The profile of `make build`, so that what build scripts compile (aws-lc, libgit2) is compiled once.
.PHONY: lint-clippy
lint-clippy: own-target
	cargo clippy --release --workspace --all-targets --locked -- -D warnings

.PHONY: lint-generated
lint-generated: own-target
	@mk/generated.sh
