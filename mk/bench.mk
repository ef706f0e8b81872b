# Figures. The programs exit with an error where a goal is missed.

.PHONY: bench-engine
bench-engine: tools guests build ## Figures of the rollout engine with 1,000 units and 20 dataplanes, also into out/engine.json
	$(CARGO_BIN)/bench_engine

# ONLY=chain is all that there is; PART=sockets (or in-process, memory, neighbours, swaps) measures less. What is measured is built
# as what is published.
.PHONY: bench
bench: guests own-target ## Figures of the chain beside nginx, Envoy and workerd, also into out/bench.json
	@bench/peers.sh
	$(CARGO) build --profile dist --workspace --bin sluice-dataplane
	PATH="$(PATH)" python3 bench/chain.py $(if $(PART),--only $(PART))
	python3 bench/report.py
