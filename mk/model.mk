# The model check of the planner. `make test` runs the bounded one.

.PHONY: model
model: own-target ## Explore the planner deeply, then plant bugs that the model check must find
	MODEL=deep MODEL_THREADS=$$(nproc) cargo test --release -p sluice-rollout --test model_check
	@mk/mutations.sh
