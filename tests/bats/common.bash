# What the bats files share: the users, srun with a container, what to assert, and the search for leaks.
# shellcheck shell=bash disable=SC2154,SC2034,SC2015,SC2016
# (bats sets status, output, lines and stderr.)

bats_require_minimum_version 1.7.0
export BATS_LIB_PATH=${BATS_LIB_PATH:-/usr/lib/bats}
bats_load_library bats-support
bats_load_library bats-assert
# shellcheck source=../cluster/common.sh
. "$BATS_TEST_DIRNAME/../cluster/common.sh"

# tests/run says how often a test is tried again.
BATS_TEST_RETRIES=${PYXIS_TEST_RETRIES:-0}
[ "${BATS_TEST_TRY_NUMBER:-1}" = 1 ] ||
    echo "tried again: $BATS_TEST_DESCRIPTION ($(basename "$BATS_TEST_FILENAME"))" >>"${PYXIS_TEST_AGAIN:-/dev/null}"

export SLURM_CONF=$test_state/slurm.conf
alice=pyxis-alice
bob=pyxis-bob
alice_home=/home/$alice
alice_uid=$(id -u $alice)
R=$test_registry
H=$hostile_registry
store=/var/lib/pyxis
request_log=$test_state/log/requests
registry_log=$test_state/log/registry

# The nodes' kernel can mount images for users.
kernel_mounts() { [ ! -s "$test_state/lacks" ]; }

# Debian's packages of Slurm 26.05 have no such plugin.
needs_pmix() { [ -n "$(find /usr/lib -name 'mpi_pmix*.so' -print -quit)" ] || skip "this Slurm has no mpi/pmix"; }

# They can read images by no means, and unpack them.
images_are_unpacked() { grep -qs fuse "$test_state/lacks"; }

# as USER COMMAND...: with that user's ids and groups, a clean environment (plus VAR=VALUE words that lead the command)
# and the home as working directory.
as() {
    local user=$1 home
    shift
    home=$(getent passwd "$user" | cut -d: -f6)
    cd "$home" || return
    runuser -u "$user" ${as_group:+-g "$as_group"} -- env -i HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash TERM=dumb \
        PATH=/usr/local/bin:/usr/bin:/bin SLURM_CONF="$SLURM_CONF" "$@" </dev/null
}

# job ARGUMENTS...: srun by alice. VAR=VALUE words first go into her environment.
job() {
    local vars=()
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    run --separate-stderr as "$alice" "${vars[@]}" timeout 300 srun --quiet "$@"
}

# box ARGUMENTS...: the same in the small container.
box() {
    local vars=()
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    job "${vars[@]}" --container-image="$R#busybox" "$@"
}

# same ARGUMENTS...: a step on the host and one in the small container, with the same arguments. Exit codes, the lines on
# stdout in any order, and what Slurm says are the same. What follows looks at the second one.
same() {
    local bare
    job "$@"
    bare=$(outcome)
    box "$@"
    [ "$(outcome)" = "$bare" ] || { echo "bare srun:"; echo "$bare"; echo "in a container:"; show; return 1; }
}
# What must not differ between two runs: not the numbers of steps, the node, the time of day, nor who of several tasks is first.
outcome() {
    printf 'exit code %s\n' "$status"
    sed -E 's/^ready [0-9]+/ready/' <<<"$output" | sort
    sed -E 's/^\[[-0-9T:.]+\] //; s/StepId=[0-9.]+/StepId/; s/STEP [0-9.]+/STEP/; s/ (AT|JOB) [-0-9T:]+/ \1/g; s/\bn[0-9]\b/node/g' <<<"$stderr" |
        grep -vE '^pyxis: import|^srun: job [0-9]+ (queued|has been allocated)' | sort
}

# A step of alice's in the background, with a directory of hers in $work. `begin ARGUMENTS...` returns when a task has printed
# a line "ready JOB"; then $srun is srun's pid and $id the job's. `finish` waits for its end, and sets what `run` sets.
begin() {
    rm -f "$work/pid" "$work/out"
    as "$alice" sh -c 'echo $$ >"$0"; exec timeout --foreground 300 srun "$@"' "$work/pid" "$@" \
        >"$work/out" 2>"$work/err" 3>&- &
    background=$!
    poll 30 "the step is ready" grep -qs '^ready' "$work/out" || { cat "$work/out" "$work/err"; return 1; }
    srun=$(pgrep -P "$(cat "$work/pid")" -x srun)
    id=$(sed -n 's/^ready //p' "$work/out" | head -n1)
}
finish() {
    status=0
    wait "$background" || status=$?
    output=$(cat "$work/out") stderr=$(cat "$work/err")
}
# alike FUNCTION: runs it with $container empty, and again with $container asking for the small one; what it leaves in status,
# output and stderr is the same, but for job numbers.
alike() {
    local bare
    container=()
    "$1"
    bare=$(outcome)
    container=(--container-image="$R#busybox")
    "$1"
    [ "$(outcome)" = "$bare" ] || { echo "bare srun:"; echo "$bare"; echo "in a container:"; show; return 1; }
}

pyxis_as() {
    local user=$1
    shift
    run --separate-stderr as "$user" timeout 300 pyxis "$@"
}

show() { printf -- '-- status --\n%s\n-- stdout --\n%s\n-- stderr --\n%s\n--\n' "$status" "$output" "$stderr"; }
ok() { [ "$status" = 0 ] || { show; return 1; }; }
# says TEXT: success, and exactly this on stdout.
says() { [ "$status" = 0 ] && [ "$output" = "$1" ] || { echo "wanted: $1"; show; return 1; }; }
err_has() { [[ $stderr == *"$1"* ]] || { echo "not on stderr: $1"; show; return 1; }; }
err_lacks() { [[ $stderr != *"$1"* ]] || { echo "on stderr: $1"; show; return 1; }; }
out_has() { [[ $output == *"$1"* ]] || { echo "not on stdout: $1"; show; return 1; }; }
out_lacks() { [[ $output != *"$1"* ]] || { echo "on stdout: $1"; show; return 1; }; }

# dies TEXT: not zero, with the text on stderr, whoever said it.
dies() {
    [ "$status" != 0 ] || { echo "should fail"; show; return 1; }
    err_has "$1"
}

# fails TEXT...: not zero, and one pyxis error line that has every TEXT, letters of any case; nothing on stdout; no control
# character anywhere, whatever the registry sent.
fails() {
    local line text
    [ "$status" != 0 ] && [ "$status" != 124 ] || { echo "should fail, by itself"; show; return 1; }
    [ -z "$output" ] || { echo "should have no output"; show; return 1; }
    [[ $stderr != *[$'\x01'-$'\x08\x0b'-$'\x1f']* ]] || { echo "control characters"; show; return 1; }
    line=$(pyxis_errors)
    [ "$(wc -l <<<"$line")" = 1 ] && [ -n "$line" ] || { echo "should have one pyxis error line"; show; return 1; }
    for text in "$@"; do
        [[ ${line,,} == *"${text,,}"* ]] || { echo "not in the error line: $text"; show; return 1; }
    done
}
# Lines by pyxis: from srun "srun: error: pyxis: ...", from a node "slurmstepd: error: pyxis: ...", from the command
# "pyxis: ...". What it tells while importing is not an error.
pyxis_errors() { grep -E '(^|error: )pyxis: ' <<<"$stderr" | grep -vE 'pyxis: (import(ing|ed) docker image: |importing: |waiting for )' || true; }

# refused TEXT...: srun said no by itself, before there was a job.
refused() {
    fails "$@" && [[ $stderr == *"srun: error: pyxis: "* ]] && [[ $stderr != *slurmstepd* ]] ||
        { echo "should be refused by srun"; show; return 1; }
}

# A new directory that alice owns.
alice_dir() {
    local dir
    dir=$(mktemp -d "$alice_home/$1.XXXXXX")
    chmod 0755 "$dir"
    chown "$alice:" "$dir"
    echo "$dir"
}

# Run in a container: prints what does not belong to the user, but for the host's own files that every container has.
not_owned='find / -xdev ! -user "$(id -u)" | grep -vxE "/(dev|proc|sys|etc/(hosts|hostname|resolv.conf|machine-id|localtime))"'

# stop_saver_below DIR: waits for the process that writes a container to a file of alice's there, and stops it in the middle of
# it; $pid is that process. It may be done in a moment: so this looks at her processes only, and does not rest.
stop_saver_below() {
    local deadline=$((SECONDS + 120))
    until pid=$(saver_below "$1"); do
        [ "$SECONDS" -lt "$deadline" ] || { echo "no process saves to $1"; return 1; }
    done
    kill -STOP "$pid"
}
saver_below() {
    local one
    # The supervisor has the file open too, to look at its size.
    for one in $(pgrep -U "$alice"); do
        [ -z "$(find "/proc/$one/fd" \( -lname "$1/#*" -o -lname "$1/.saved*" \) -print -quit 2>/dev/null)" ] || { echo "$one"; return; }
    done
    return 1
}

# requests_since MARK REPOSITORY KIND: how many manifests/blobs were got from the sample registry.
registry_mark() { wc -l <"$registry_log"; }
requests_since() { tail -n +"$(($1 + 1))" "$registry_log" | grep -c "\"GET /v2/$2/$3/" || true; }

# --- leaks ---------------------------------------------------------------------------------------------------------

# Everything that a container could leave on the host, in one text.
host_state() { "$root/tests/bats/host-state" "$SLURM_CONF" "$alice" "$bob" pyxis; }

# What the step before has started may still be reading.
remember_host() {
    poll 10 "the step before reads no more" sh -c '! pgrep -x pyxis-ahead'
    host_state >"$BATS_TEST_TMPDIR/host"
}

# What is new on the host, and what is gone; but a slurmstepd of a step before may have been ending when it was remembered.
# $filter is of as_before.
changes() {
    diff <($filter <"$BATS_TEST_TMPDIR/host") <(host_state | $filter) | grep '^[<>]' | grep -v '^< [^ ]*/slurmstepd[^ ]* 0$' || true
}

# as_before [new-packs]: the host becomes what it was within 10 seconds (on a busy machine, 30). With `new-packs`, finished images may be new in
# the store.
as_before() {
    local deadline=$((SECONDS + 30)) filter=cat
    [ "${1-}" != new-packs ] || filter="grep -v -e ^$store/packs- -e ^$store/configs/ -e ^$store/images/ -e ^$store/grants/ -e ^$store/[a-z]*$"
    until [ -z "$(changes)" ]; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "left behind:"
            changes
            return 1
        fi
        sleep 0.1
    done
    [[ $(sinfo -h -o %T | sort -u) != *drain* ]] || { sinfo -R; return 1; }
}

# commands PAGE [KIND [VAR=VALUE...]]: runs those of a page (see tests/docs/examples.py) in $work as $who.
commands() {
    install -d -m 0700 -o "$who" "$work/.data" "$work/.run"
    run as "$who" TEST_REGISTRY="$R" XDG_DATA_HOME="$work/.data" XDG_RUNTIME_DIR="$work/.run" "${@:3}" \
        sh -c 'cd "$0" && exec "$@"' "$work" "$root/tests/docs/examples.py" "$root/$1" ${2+"$2"}
    [ "$status" = 0 ] || { echo "$output"; return 1; }
}

# The model.sif of the pages, in $work.
model_file() {
    as "$alice" XDG_DATA_HOME="$work/.data" bash -c 'exec -a singularity /usr/libexec/pyxis/worker "$@"' sh \
        pull -F "$work/model.sif" "docker://$R/model"
}
