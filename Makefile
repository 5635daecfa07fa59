# The two commands: `make up` gives a working single node, `make test` runs every test. What is longer than a few
# lines lies in scripts/.

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
export PREFIX ?= /usr/local
export DESTDIR ?=
export PLUGIN ?= bulkhead:latest
export PURGE ?=

export SHOTS ?=
export QUICK ?=
export PAGE ?=

STORE ?= etcd
HOSTS ?= 3
HOST ?= n1
MINUTES ?= 20
REPL ?= 2
NODES ?= 1
RUNS ?= 3
SEED ?=
SEEDS ?= 2000
FROM ?= 0

.PHONY: bench bench-control bench-recovery bench-scale lab lab-down lab-enter demo test-api test-ui test-cluster test-faults test-ha test-uninterrupted sim sim-faults help up down build install upgrade uninstall plugin test lint fmt

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

up: build ## a working node: Docker, a pool of 10 GB, the daemon, and a volume shown
	@$(SUDO) scripts/up.sh

down: ## undoes make up; PURGE=1 removes the volumes too
	@$(SUDO) env PURGE=$(PURGE) scripts/down.sh

build: ## the binary, in target/release
	@scripts/deps.sh build
	@scripts/build.sh

install: build ## binary, systemd unit and socket, configuration; knows PREFIX and DESTDIR
	@$(if $(DESTDIR),,$(SUDO)) env PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install.sh install

upgrade: ## builds, and replaces the installed program while its volumes are in use
	@scripts/upgrade.sh

uninstall: ## removes what make install has put in place; data and configuration stay
	@$(if $(DESTDIR),,$(SUDO)) env PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) scripts/install.sh uninstall

plugin: ## the managed Docker plugin, named PLUGIN
	@scripts/deps.sh build run
	@scripts/plugin-folder.sh
	@$(SUDO) env PLUGIN=$(PLUGIN) scripts/plugin.sh

test: ## formatting, lints, documentation and every test; needs root
	@scripts/test.sh

test-api: ## the API against its own OpenAPI document, with schemathesis; needs root
	@scripts/test-api.sh

test-ui: ## the web page in headless Chromium; SHOTS names a directory for screenshots; needs root
	@scripts/test-ui.sh

lab: ## a cluster of HOSTS hosts to play with, on STORE (etcd or consul), until ctrl-C
	@scripts/lab.sh up --store $(STORE) --hosts $(HOSTS)

lab-enter: ## a shell on HOST of that cluster
	@scripts/lab.sh enter $(HOST)

lab-down: ## ends that cluster from elsewhere
	@scripts/lab.sh down

demo: ## the founding story, told step by step: PostgreSQL survives the loss of its node
	@scripts/lab.sh demo --store $(STORE)

test-cluster: ## three hosts on STORE: joins, races, outages, Swarm; ends with its figures
	@scripts/test-cluster.sh $(STORE)

test-faults: ## random faults for MINUTES on a volume with REPL replicas, on STORE; SEED repeats a choice
	@scripts/lab.sh faults --minutes $(MINUTES) --store $(STORE) --repl $(REPL) $(if $(SEED),--seed $(SEED))

test-ha: ## the story RUNS times and its harder sisters, on STORE; ends with a table
	@scripts/lab.sh ha --store $(STORE) --runs $(RUNS)

test-uninterrupted: ## kills the daemon for MINUTES (10) under fio and pgbench on NODES (1 or 3); SEED repeats the choice
	@scripts/lab.sh uninterrupted --minutes $(if $(filter file,$(origin MINUTES)),10,$(MINUTES)) --nodes $(NODES) --store $(STORE) $(if $(SEED),--seed $(SEED))

lint: ## formatting and lints
	@scripts/lint.sh

fmt: ## formats the sources
	@cargo fmt --all

sim: ## simulates SEEDS runs of the replication from seed FROM on
	@cargo run --quiet --release --package bulkhead-sim --bin sim -- run --seeds $(SEEDS) --from $(FROM)

sim-faults: ## looks for every deliberate fault with the simulation
	@cargo run --quiet --release --package bulkhead-sim --bin sim --features faults --target-dir target/faults -- faults --page docs/simulation.md

bench: ## the data path beside a plain loop device and GlusterFS; QUICK=1: below ten minutes; PAGE=1: into the documentation
	@scripts/bench.sh data

bench-recovery: ## a rebuild of 5 GiB, alone and under pgbench, and catching up after 60 s; knows QUICK and PAGE
	@scripts/bench.sh recovery

bench-scale: ## 200 volumes on one node at rest, 50 of them busy; knows QUICK and PAGE
	@scripts/bench.sh scale

bench-control: ## the control plane: 200 simulated nodes and 10,000 volumes against etcd; knows QUICK and PAGE
	@scripts/bench.sh control
