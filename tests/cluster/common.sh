# What all scripts of the test bed share: where things are, and how daemons are started, watched and stopped on a
# machine that may have no init system. Sourced, never run.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Things that take long to make and never change: the debootstrap tree, the registries' content, the bench image.
cache=${PYXIS_TEST_CACHE:-/var/cache/pyxis-test}
# What the running test cluster and the demo own. Short paths: Slurm puts sockets there.
test_state=/var/lib/pyxis-test
demo_state=/var/lib/pyxis-demo

test_registry=127.0.0.1:5055
hostile_registry=127.0.0.1:5066
foreign_host=127.0.0.2:5067
demo_registry=127.0.0.1:5000
# The users of the tests: alice belongs to one more group, bob owns nothing of hers.
test_users=(pyxis-alice pyxis-bob)
demo_user=demo

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "this must run as root"; }

# poll SECONDS WHAT COMMAND...: runs the command until it succeeds. So long may it take on a machine of its own; a busy one
# gets four times as much.
poll() {
    local deadline=$((SECONDS + 4 * $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { say "gave up waiting: $what"; return 1; }
        sleep 0.1
    done
}

# The start time of a process in clock ticks: with the pid it names a process for good.
process_birth() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# daemon_start STATE NAME COMMAND...: in the background, output to STATE/log/NAME.
daemon_start() {
    local state=$1 name=$2
    shift 2
    mkdir -p "$state/log" "$state/pid"
    # A shell has its background processes ignore these two, and Slurm 26.05 hands that on to tasks.
    setsid env --default-signal=INT,QUIT "$@" </dev/null >>"$state/log/$name" 2>&1 &
    echo "$! $(process_birth $!)" >"$state/pid/$name"
}

# daemon_alive STATE NAME
daemon_alive() {
    local pid birth
    [ -e "$1/pid/$2" ] && read -r pid birth <"$1/pid/$2" || return 1
    [ -n "$birth" ] && [ "$(process_birth "$pid")" = "$birth" ]
}
daemon_dead() { ! daemon_alive "$@"; }

# daemon_signal STATE NAME: asks it to end.
daemon_signal() {
    local pid
    daemon_alive "$1" "$2" || return 0
    read -r pid _ <"$1/pid/$2"
    kill "$pid" 2>/dev/null || true
}

# daemon_stop STATE NAME: politely, then not.
daemon_stop() {
    local state=$1 name=$2 pid
    if daemon_alive "$state" "$name"; then
        read -r pid _ <"$state/pid/$name"
        daemon_signal "$state" "$name"
        poll 10 "$name ends" daemon_dead "$state" "$name" || kill -9 "$pid" 2>/dev/null || true
        poll 10 "$name is gone" daemon_dead "$state" "$name" || true
    fi
    rm -f "$state/pid/$name"
}

# debian_tree SUITE TREE: the smallest root directory of that suite, made once. The caller sees to it that nobody else makes it.
debian_tree() {
    local suite=$1 tree=$2
    [ ! -d "$tree" ] || return 0
    say "making a Debian tree ($suite) with debootstrap"
    rm -rf "$tree.tmp"
    debootstrap --variant=minbase "$suite" "$tree.tmp" "${PYXIS_TEST_MIRROR:-http://deb.debian.org/debian}" >"$tree.log" 2>&1 ||
        die "debootstrap failed: see $tree.log"
    rm -rf "$tree.tmp"/var/cache/apt/archives/*.deb "$tree.tmp"/var/lib/apt/lists/*
    mv "$tree.tmp" "$tree"
}

munge_works() { munge -n 2>/dev/null | unmunge >/dev/null 2>&1; }

# Slurm's daemons and clients trust each other through munge. A munged that is there already is used.
munge_start() {
    local state=$1
    munge_works && return
    [ -s /etc/munge/munge.key ] || mungekey --create
    chown munge:munge /etc/munge/munge.key
    install -d -o munge -g munge -m 0755 /run/munge
    install -d -o munge -g munge -m 0700 /var/lib/munge /var/log/munge
    daemon_start "$state" munged setpriv --reuid munge --regid munge --init-groups munged --foreground --force
    poll 20 "munged answers" munge_works || die "munged does not start: see $state/log/munged"
}

# munge_stop STATE OTHER_STATE: only the one that STATE started, and handed on while the other cluster runs.
munge_stop() {
    daemon_alive "$1" munged || return 0
    if daemon_alive "$2" slurmctld; then
        mv "$1/pid/munged" "$2/pid/munged"
    else
        daemon_stop "$1" munged
    fi
}

http_ok() { /usr/bin/python3 -c 'import sys,urllib.request as u; u.urlopen(sys.argv[1], timeout=2)' "$1"; }

# registry_start STATE ADDRESS STORAGE: Docker's registry, without authentication.
registry_start() {
    local state=$1 address=$2 storage=$3
    daemon_alive "$state" registry && return
    mkdir -p "$state" "$storage"
    cat >"$state/registry.yml" <<YML
version: 0.1
log: {level: warn, accesslog: {disabled: false}}
storage:
  filesystem: {rootdirectory: $storage}
  delete: {enabled: true}
http: {addr: "$address"}
YML
    daemon_start "$state" registry env OTEL_TRACES_EXPORTER=none docker-registry serve "$state/registry.yml"
    poll 20 "the registry answers" http_ok "http://$address/v2/" || die "the registry does not start: see $state/log/registry"
}

# Homes can be entered, as is not the default everywhere.
user_add() { id "$1" >/dev/null 2>&1 || useradd --create-home --key HOME_MODE=0755 --shell /bin/bash "$1"; }

# cluster_start STATE NODES...: slurmctld and one slurmd per node, as STATE/slurm.conf says; returns when all are idle.
cluster_start() {
    local state=$1 node
    shift
    export SLURM_CONF=$state/slurm.conf
    install -d -o slurm -g slurm -m 0755 "$state/ctld"
    daemon_alive "$state" slurmctld || daemon_start "$state" slurmctld slurmctld -D -f "$SLURM_CONF"
    for node in "$@"; do
        install -d -m 0755 "$state/$node"
        daemon_alive "$state" "slurmd-$node" || slurmd_start "$state" "$node"
    done
    poll 30 "slurmctld answers" scontrol ping || die "slurmctld does not start: see $state/log/slurmctld"
    for node in "$@"; do
        poll 40 "node $node is idle" node_usable "$node" || die "slurmd does not start: see $state/log/slurmd-$node"
    done
}

# slurmd_start STATE NODE. The node called tiny has a package store that is soon full, and a site configuration of its own
# (STATE/tiny.toml, STATE/tiny-enroot for /etc/enroot); they are mounted where only it sees them. What $slurmd_lacks names the
# kernel seems to lack.
slurmd_start() {
    local state=$1 node=$2 kernel=()
    [ -z "${slurmd_lacks-}" ] || kernel=("$root/tests/cluster/old-kernel" "$slurmd_lacks")
    # shellcheck disable=SC2016 # the inner shell expands these
    if [ "$node" = tiny ]; then
        mkdir -p /var/lib/pyxis "$state/tiny-enroot"
        # The place to mount on; cluster_stop takes it away again.
        [ -e /etc/enroot ] || { mkdir /etc/enroot && touch "$state/made-etc-enroot"; }
        daemon_start "$state" "slurmd-$node" "${kernel[@]}" unshare --mount --propagation private sh -c '
            mount -t tmpfs -o size=8m,mode=0700 tiny /var/lib/pyxis || exit
            [ ! -e /etc/pyxis/pyxis.toml ] || mount --bind "$1/tiny.toml" /etc/pyxis/pyxis.toml || exit
            mount --bind "$1/tiny-enroot" /etc/enroot || exit
            exec slurmd -D -f "$1/slurm.conf" -N tiny' sh "$state"
    else
        daemon_start "$state" "slurmd-$node" "${kernel[@]}" slurmd -D -f "$state/slurm.conf" -N "$node"
    fi
}

node_usable() { [[ $(sinfo -h -N -n "$1" -o %T | head -n1) =~ ^(idle|mixed|allocated)$ ]]; }

# cluster_stop STATE: also when half of it is dead already.
cluster_stop() {
    local state=$1 file name names=()
    export SLURM_CONF=$state/slurm.conf
    if daemon_alive "$state" slurmctld; then
        timeout 10 scancel --full --state=RUNNING,PENDING,SUSPENDED 2>/dev/null || true
        poll 15 "jobs end" no_jobs || true
    fi
    for file in "$state"/pid/slurmd-* "$state"/pid/slurmctld; do
        [ ! -e "$file" ] || names+=("$(basename "$file")")
    done
    for name in "${names[@]}"; do daemon_signal "$state" "$name"; done
    for name in "${names[@]}"; do daemon_stop "$state" "$name"; done
    stepds_kill "$state"
    if [ -e "$state/made-etc-enroot" ]; then
        rmdir /etc/enroot 2>/dev/null || true
        rm -f "$state/made-etc-enroot"
    fi
}

no_jobs() { [ -z "$(timeout 5 squeue -h)" ]; }

# stepd_processes STATE: processes with slurmstepd's program and this cluster's configuration.
stepd_processes() {
    local dir
    for dir in /proc/[0-9]*; do
        case $(readlink "$dir/exe" 2>/dev/null) in */slurmstepd*) ;; *) continue ;; esac
        # One of 26.05 shows no environment once it has written its title over it: it is in a machine of the cluster's own.
        if grep -qsz '^SLURM_CONF=' "$dir/environ" && ! grep -qsxz "SLURM_CONF=$1/slurm.conf" "$dir/environ"; then continue; fi
        echo "${dir#/proc/}"
    done
}

# What slurmds that died left behind.
stepds_kill() {
    local pid
    for pid in $(stepd_processes "$1"); do
        kill -9 "$pid" 2>/dev/null || true
    done
}
