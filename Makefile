# A fresh clone needs a Rust toolchain and nothing else: scripts/nats-server finds or fetches the server.
.PHONY: demo demo-failure test box chaos nix sparse mutants bench lint archive cargo

demo: cargo
	cargo build --bins --example demo
	cargo run --quiet --example demo

demo-failure: cargo
	cargo build --bins --example demo
	cargo run --quiet --example demo -- failure

# Most of a test is waiting, so three run at once for each core.
test: cargo
	scripts/mcp-client >/dev/null || true
	RUST_TEST_THREADS=$$((3 * $$(getconf _NPROCESSORS_ONLN))) scripts/run-tests --lib --bins --examples --test it

# Tests on real hosts: systemd, Nix and git in a Debian of their own. They need root and apt; elsewhere they are skipped.
box: cargo
	scripts/run-tests --test box

# Rounds of random faults for SECONDS, the first one of SEED; a failure prints its own SEED. `make test` has a few of them.
SECONDS ?= 600
chaos: cargo
	NATS_SERVER=$$(scripts/nats-server) && export NATS_SERVER && \
		SECONDS=$(SECONDS) cargo test --test it chaos -- --nocapture

# The flake by its URL. Takes minutes; where no Nix can be had, it is skipped. SUITES="trixie forky" tries a newer Nix as well.
nix: cargo
	for suite in $${SUITES:-trixie}; do \
		nix=$$(scripts/nix $$suite) || [ $$? = 3 ] || exit 1; \
		NIX=$$nix PATH=$${nix%/*}:$$PATH cargo test --test nix || exit 1; \
	done

# Tests in an environment as bare as that of the flake's builds.
sparse: cargo
	scripts/sparse-tests

# Plants the bugs of tests/mutants.toml one by one; each must be noticed by a test. SAMPLE=6 plants six, which the commit chooses.
mutants: cargo
	scripts/mutants $${SAMPLE:+--sample "$$SAMPLE"}

# Takes minutes, and wants a machine with nothing else to do.
bench: cargo
	NATS_SERVER=$$(scripts/nats-server) && NIX=$$(scripts/nix trixie || true) && export NATS_SERVER NIX && \
		cargo bench --bench fleet

lint: cargo
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# For machines without Nix, in target/archive.
archive: cargo
	scripts/release-archive

cargo:
	@command -v cargo >/dev/null || { echo 'cargo not found: install Rust from https://rustup.rs, or enter `nix develop`' >&2; exit 1; }
