# `make build`, `make install`, `make demo`, `make test`, `make check`, `make bench`: see README.md.
DESTDIR ?=
PREFIX ?= /usr
MULTIARCH := $(shell dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch 2>/dev/null)
SLURM_PLUGINDIR ?= $(firstword $(wildcard /usr/lib/$(MULTIARCH)/slurm-wlm /usr/lib/$(MULTIARCH)/slurm /usr/lib64/slurm /usr/lib/slurm) /usr/lib/slurm)
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
INSTALL ?= install
SCRIPTS = $(shell grep -rlE --include='*' '^\#!/(bin/bash|usr/bin/env bash)' tests .ci 2>/dev/null) tests/cluster/common.sh \
	$(shell grep -rlE '^\#!/bin/(ba)?sh' packaging)

.PHONY: build install install-names packages release-packages test-release uninstall bindings check-bindings setup demo demo-down cluster cluster-down test test-rungs test-matrix test-kernels test-aarch64 check bench

build:
	cargo build --release --locked

# One program: the plugin starts it as its worker, and the command is a link to it.
install:
	$(INSTALL) -D -m 0644 $(TARGET)/release/libspank_pyxis.so $(DESTDIR)$(SLURM_PLUGINDIR)/spank_pyxis.so
	$(INSTALL) -D -m 0755 $(TARGET)/release/pyxis $(DESTDIR)/usr/libexec/pyxis/worker
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/bin
	ln -sfr $(DESTDIR)/usr/libexec/pyxis/worker $(DESTDIR)$(PREFIX)/bin/pyxis
	$(INSTALL) -D -m 0644 pyxis.conf $(DESTDIR)$(PREFIX)/share/pyxis/pyxis.conf
	$(INSTALL) -D -m 0644 packaging/pyxis.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/pyxis.conf
	$(INSTALL) -D -m 0644 packaging/pyxis.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/pyxis.conf
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5
	$(INSTALL) -m 0644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	$(INSTALL) -m 0644 docs/man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5
	$(INSTALL) -D -m 0644 packaging/completions/pyxis.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pyxis
	$(INSTALL) -D -m 0644 packaging/completions/_pyxis $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pyxis
	$(INSTALL) -D -m 0644 packaging/completions/pyxis.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/pyxis.fish
	test -e $(DESTDIR)/etc/pyxis/pyxis.toml || \
		$(INSTALL) -D -m 0644 packaging/pyxis.toml $(DESTDIR)/etc/pyxis/pyxis.toml
	$(INSTALL) -d -m 0700 $(DESTDIR)/var/lib/pyxis
	test -n "$(DESTDIR)" || packaging/post-install

# The command under the names of others, which is a package of its own.
NAMES = enroot singularity apptainer
install-names:
	$(INSTALL) -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	for name in $(NAMES); do ln -sfr $(DESTDIR)/usr/libexec/pyxis/worker $(DESTDIR)$(PREFIX)/bin/$$name; done
	$(INSTALL) -m 0644 docs/man/names/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	$(INSTALL) -m 0644 docs/man/names/singularity.1 $(DESTDIR)$(PREFIX)/share/man/man1/apptainer.1
	$(INSTALL) -D -m 0644 packaging/names/apparmor $(DESTDIR)$(PREFIX)/share/pyxis-names/apparmor

# target/packages: for Debian and for Red Hat's family.
packages: build
	packaging/build

# The same to be published, for glibc 2.28 and newer, in target/release-packages. MACHINE=aarch64 needs Rust's standard library for it.
MACHINE ?= $(shell uname -m)
export MACHINE
RELEASE = target/$(MACHINE)-unknown-linux-gnu
release-packages:
	packaging/compile
	TARGET=$(RELEASE) packaging/build target/release-packages

# That they run on the oldest system that Debian's mirror has.
test-release: setup release-packages
	bats tests/packages/release.bats

uninstall:
	rm -f $(DESTDIR)$(SLURM_PLUGINDIR)/spank_pyxis.so $(DESTDIR)$(PREFIX)/bin/pyxis \
		$(DESTDIR)$(PREFIX)/share/pyxis/pyxis.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/pyxis.conf \
		$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/pyxis.conf $(DESTDIR)$(PREFIX)/share/man/man[15]/pyxis.* \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pyxis $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pyxis \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/pyxis.fish
	rm -rf $(DESTDIR)/usr/libexec/pyxis $(DESTDIR)$(PREFIX)/share/pyxis-names
	for name in $(NAMES); do \
		link=$(DESTDIR)$(PREFIX)/bin/$$name; \
		case "$$(readlink $$link)" in */libexec/pyxis/worker) rm -f $$link $(DESTDIR)$(PREFIX)/share/man/man1/$$name.1 ;; esac; \
	done

setup:
	tests/cluster/setup

demo:
	tests/cluster/demo

demo-down:
	tests/cluster/demo-down

cluster: build install
	tests/cluster/up

cluster-down:
	tests/cluster/down

test: setup
	tests/run

test-rungs: setup
	tests/run --rungs

test-matrix: setup
	tests/run --matrix

test-kernels: setup
	tests/run --kernels

# Packages for another machine, and the unit tests there under qemu-user.
test-aarch64: setup
	tests/aarch64/run

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	shellcheck $(SCRIPTS)
	shellcheck --shell=bash tests/bats/*.bash tests/packages/*.bash
	mandoc -T lint -W warning docs/man/*.[15] docs/man/names/*
	bash -c 'for f in tests/bats/*.bats tests/packages/*.bats tests/slinky/*.bats tests/memcheck/*.bats tests/vm/*.bats; do bats --count "$$f" >/dev/null || exit 1; done'

# Writes spank-sys/src/bindings.rs from the installed slurm/spank.h; needs libslurm-dev and libclang.
bindings:
	SPANK_BINDINGS=write cargo test -q -p spank-sys --features regenerate --test bindings

check-bindings:
	cargo test -q -p spank-sys --features regenerate --test bindings

bench: setup build
	tests/bench/run
