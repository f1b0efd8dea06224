# One desk: what a person or a machine does to this project is a line here. Bare `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help demo build check test soak bench bench-full bench-served clean
export PATH := $(PATH):$(HOME)/.cargo/bin
RUN := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## push two releases of a real project, pull both back, compare, print what it took
	$(RUN)/python -m bench.demo

build: ## make .venv with the pinned tools and build the kernel; then .venv/bin/packetfs works
	@.ci/environment

check: build ## what to run before a commit, under a minute once built
	@.ci/check

test: ## what CI runs: every gate and every test, short counts, the wheel in a clean environment
	@.ci/run

soak: build ## the long counts: kills, simulated damage, properties (hours)
	cargo test --package packetfs-engine --lib --tests --release
	$(RUN)/pytest --soak -n 2 --timeout 14400 -o faulthandler_timeout=0

bench: build ## every promise beside what people use today, in minutes: tables, JSON and a page in bench/results (root: all)
	$(RUN)/python -m bench.all

bench-full: build ## the same with full counts, medians and up to 20 GB at a time (under two hours)
	$(RUN)/python -m bench.all --list full

bench-served: build ## push, pull, sync, watch and replication between two machines, beside their peers (root; hours)
	$(RUN)/python -m bench.all --list served

clean: ## remove what was built or downloaded here
	rm -rf .venv target dist bench/data bench/results .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -f src/packetfs/_kernel*.so
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
