# The example workers, and the guests of the tests.

.PHONY: guests
guests: ## Build the example workers into $(SLUICE_CACHE)/guests
	@MAKEFLAGS= examples/build.sh
