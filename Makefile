# Every job of the project, explained by `make help`. Recipes are short; the work is in the files they call.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

RELEASE ?= trixie
RELEASES ?= bookworm trixie
INVENTORY ?= inventories/lab
FORMAT ?= table
BIN := .venv/bin
LAB := $(BIN)/python molecule/shared/lab.py
# Debian's own Python before another in the path: built with profiles, it does the same work in three quarters of the time.
USABLE := 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

.PHONY: help setup demo test check times lint unit molecule behaviour plan dns dns-check bench docs down clean

help: ## list the jobs
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: .venv/.installed ## install what this project needs (.venv, and Debian packages when root)

.venv/.installed: pyproject.toml
	@molecule/shared/controller-packages
	@echo "Installing the Python packages into .venv"
	@for python in /usr/bin/python3 python3; do $$python -c $(USABLE) 2>/dev/null && break; done; $$python -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check pip==26.1
	@$(BIN)/python -m pip install --quiet --group test
	@touch $@

demo: setup ## a bare host becomes a mail server and exchanges mail; RELEASE=bookworm|trixie INVENTORY=dir
	@$(BIN)/python molecule/shared/demo.py --release $(RELEASE) --inventory $(INVENTORY)

test: setup ## everything: lint, unit, templates, scenario and behaviour on Debian 12 and 13
	@$(BIN)/python molecule/shared/suite.py $(RELEASES)

check: setup ## what needs no lab: lint, unit and template tests
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit

times: setup ## keep how long the behaviour tests of the last `make test` took, for the order of the next
	@$(BIN)/python molecule/shared/suite.py --keep-times

lint: setup ## ansible-lint, yamllint, ruff, mypy, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --strict
	$(BIN)/python docs/generate.py --check

# In memory where there is room for it: most of what the tests write, they write through to the disk.
unit: setup ## unit and template tests
	TMPDIR=$(wildcard /dev/shm) $(BIN)/pytest -n auto --dist worksteal

molecule: setup ## the scenario on one release: create, check, converge, idempotence, check, verify, destroy; RELEASE=…
	MAILWRIGHT_LAB=molecule RELEASE=$(RELEASE) $(BIN)/molecule test

behaviour: setup ## mail from outside against a converged lab host; RELEASE=… ARGS='-k relay'
	$(BIN)/python molecule/shared/demo.py --release $(RELEASE) --lab behaviour --converge-only
	$(LAB) --lab behaviour exec -- $(BIN)/pytest tests/behaviour $(ARGS)

plan: setup ## what a run of site.yml would change; INVENTORY=dir ARGS='--json' (exit codes: see playbooks/plan.py)
	@$(BIN)/python playbooks/plan.py -i $(INVENTORY) $(ARGS) || [ $$? = 2 ]

dns-check: setup ## the live DNS against the inventory; INVENTORY=dir ARGS='--json' (exit codes: see playbooks/dns_check.py)
	@$(BIN)/python playbooks/dns_check.py -i $(INVENTORY) $(ARGS)

dns: setup ## every DNS record that an inventory calls for; INVENTORY=dir FORMAT=table|zone|json|octodns (files in build/dns)
	@ANSIBLE_DISPLAY_OK_HOSTS=false $(BIN)/ansible-playbook -i $(INVENTORY) playbooks/dns.yml -e dns_format=$(FORMAT) $(ARGS)

bench: setup ## measure, for half an hour; prints a table and writes build/bench.json; RELEASE=… ARGS='--only mail' (see ARGS=--help)
	$(BIN)/python bench/bench.py --release $(RELEASE) $(ARGS)

docs: setup ## write docs/reference from the schema and the argument_specs
	$(BIN)/python docs/generate.py

down: setup ## remove every lab machine of this checkout's labs
	for lab in demo behaviour molecule bench; do $(LAB) --lab $$lab down; done

clean: down ## remove the labs and what was built
	rm -rf build .venv
