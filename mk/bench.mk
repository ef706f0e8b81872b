# Figures. The programs exit with an error where a goal is missed.

.PHONY: bench-engine
bench-engine: tools guests build ## Figures of the rollout engine with 1,000 units and 20 dataplanes, also into out/engine.json
	$(CARGO_BIN)/bench_engine
