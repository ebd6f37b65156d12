# Everything that a developer or a CI runs. `make help` lists it. All that these make is below .cache.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .cache/venv/bin
RUN := $(VENV)/python tests/toolchain/run.py
SEED ?= 1
LAB := .cache/venv-of-lab/bin/python -m lab

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo mutants test test-fast test-kernels lint units integration molecule bench demo lab lab-down build clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## bring what the other targets need: system packages, a virtual environment, the collection in a path
	@$(PYTHON) tests/toolchain/prepare.py

setup-demo: ## bring what demo and lab need, and no more: a few system packages and a small virtual environment
	@$(PYTHON) tests/toolchain/prepare.py demo

mutants: setup ## change the pure code in 400 places chosen by SEED, and count the changes that unit tests notice
	@$(VENV)/python tests/toolchain/mutants.py --seed $(SEED)

test: setup ## static checks, unit tests, tests in network namespaces, Molecule's scenarios, IPVS in virtual machines (root)
	@$(RUN) all

test-fast: setup ## unit tests on one Python, and a choice of those in network namespaces: one iptables, IPv4 (root, minutes)
	@$(RUN) fast

lint: setup ## static checks: ansible-test sanity, ansible-lint, documentation, changelog, mypy, ruff, yamllint, shellcheck
	@$(RUN) lint

units: setup ## unit tests on every Python found (no root)
	@$(RUN) units

integration: setup ## tests in network namespaces (root)
	@$(RUN) namespaces

test-kernels: setup ## what test leaves out: traffic tests with IPVS and every iptables, the kernel of Debian 13, further Pythons (root)
	@$(RUN) units cores integration-repetitions molecule-repetitions molecule-ipvs machines ipvs-repetitions ipvs-semantics ipvs-trixie nftables-trixie switches

molecule: setup ## Molecule's scenarios, on hosts in containers and on virtual machines (root)
	@$(RUN) molecule

bench: setup ## measure rules, connections and runs against floors, and write docs/benchmarks (root, half an hour)
	@$(VENV)/python tests/bench/measure.py
	@$(VENV)/python tests/bench/nftables.py
	@$(VENV)/python tests/bench/health.py

demo: setup-demo ## a lab of namespaces converges, serves, is scaled up and removed, before your eyes (root)
	@$(LAB) demo

lab: setup-demo ## build the lab and leave it standing (root)
	@$(LAB) up

lab-down: setup-demo ## remove the lab (root)
	@$(LAB) down

build: setup ## the archive that ansible-galaxy installs
	@$(VENV)/ansible-galaxy collection build --force

clean: ## remove everything that these targets made
	rm -rf .cache .ansible tests/output
