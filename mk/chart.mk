# The Helm chart.

.PHONY: chart-crds
chart-crds: ## Write the chart's copies of the resource definitions
	@mk/chart-crds.sh

.PHONY: chart-test
chart-test: ## Lint and render the chart; values that must be refused
	@tools/install.sh helm
	@mk/chart-test.sh
