# The tools that local clusters need: etcd, Kubernetes, helm, coredns, Debian packages, the Rust target for workers.

.PHONY: tools
tools: ## Find or build every tool (minutes once, then under two seconds)
	@MAKEFLAGS= tools/install.sh
