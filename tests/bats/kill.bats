# SIGKILL of anything, at any time: srun returns, nothing stays behind, no node is drained. These run alone.

setup() {
    load common
    box true
    ok
    remember_host
}

teardown() { scancel --user="$alice"; }

# start_in_background IMAGE NAME COMMAND...: $job is srun's pid; its output goes to $BATS_TEST_TMPDIR/out.
start_in_background() {
    local image=$1 name=$2
    shift 2
    as "$alice" timeout 300 srun --job-name="$name" --container-image="$image" "$@" >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
    job=$!
}
# srun_ends: with an error, and not because it hung.
srun_ends() {
    local code=0
    wait "$job" || code=$?
    [ "$code" != 0 ] || { echo "srun should have failed"; return 1; }
    [ "$code" != 124 ] || { echo "srun hangs"; cat "$BATS_TEST_TMPDIR/out"; return 1; }
}
task_pid() { pgrep -u "$alice" -f '^/bin/sleep 7777$'; }
# Processes with slurmstepd's program: the step itself is the task's parent, any other one is ours.
stepd_pid() { ps -o ppid= -p "$(task_pid | head -n1)" | tr -d ' '; }
supervisor_pids() {
    stepd_processes "$test_state" | grep -vx "$(stepd_pid)"
}
worker_pids() {
    local dir
    for dir in /proc/[0-9]*; do
        [ "$(readlink "$dir/exe" 2>/dev/null)" != /usr/libexec/pyxis/worker ] || echo "${dir#/proc/}"
    done
}
worker_runs() { [ -n "$(worker_pids)" ]; }
layer_is_asked_for() { [ "$(tail -n +"$((mark + 1))" "$request_log" | grep -c "$1/blobs/")" -ge 2 ]; }
running_box() {
    start_in_background "$R#busybox" "$1" sleep 7777
    poll 30 "the task runs" task_pid
}
# slow_import NAME [OPTION...]: an import that takes a minute, from a repository that nobody has seen, of the configuration and the last layer at least; returns when it is in the middle of a layer.
slow_import() {
    mark=$(wc -l <"$request_log")
    start_in_background "$H#slow-layer/$1-$$" "$1" "${@:2}" true
    poll 30 "the layer is asked for" layer_is_asked_for "$1-$$"
    poll 30 "a worker runs" worker_runs
}

@test "a task" {
    running_box kill-task
    kill -9 "$(task_pid)"
    srun_ends
    as_before
}

@test "the supervisor of a running step" {
    running_box kill-supervisor
    local pids
    pids=$(supervisor_pids)
    [ -n "$pids" ]
    # shellcheck disable=SC2086
    kill -9 $pids
    # The step goes on: its namespaces belong to the tasks now.
    kill -0 "$(task_pid)"
    scancel --name=kill-supervisor
    srun_ends
    as_before
}

@test "slurmstepd of a running step" {
    running_box kill-stepd
    local stepd task
    task=$(task_pid)
    stepd=$(stepd_pid)
    kill -9 "$stepd"
    # What slurmstepd can no longer kill, the test does: the task was never ours to keep.
    kill -9 "$task" 2>/dev/null || true
    scancel --name=kill-stepd
    wait "$job" || true
    as_before
}

@test "the workers of an import" {
    slow_import kill-worker
    # shellcheck disable=SC2046
    kill -9 $(worker_pids)
    srun_ends
    grep -q "pyxis: failed to import docker image" "$BATS_TEST_TMPDIR/out" || { cat "$BATS_TEST_TMPDIR/out"; false; }
    as_before new-packs
}

@test "scancel during an import" {
    slow_import cancel-import
    scancel --name=cancel-import
    srun_ends
    as_before new-packs
}

@test "all of slurmstepd's processes during an import" {
    slow_import kill-all
    stepds_kill "$test_state"
    scancel --name=kill-all
    wait "$job" || true
    as_before new-packs
}

@test "srun itself during an import" {
    slow_import kill-srun
    pkill -9 -u "$alice" -x srun
    wait "$job" || true
    scancel --name=kill-srun || true
    as_before new-packs
}

@test "an import that was killed does not keep the next one from working" {
    slow_import kill-then-again
    # shellcheck disable=SC2046
    kill -9 $(worker_pids)
    srun_ends
    job --container-image="$H#good/again" cat /repository
    says good/again
    as_before new-packs
}

# running_name NAME: a step in a container with this name, which has a file /kept.
running_name() {
    data=/var/lib/pyxis-data/$alice_uid/pyxis_$1
    as "$alice" timeout 300 srun --job-name="$1" --container-image="$R#busybox" --container-name="$1" --container-writable \
        sh -c 'echo kept >/kept; exec /bin/sleep 7777' >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
    job=$!
    poll 30 "the task runs" task_pid
}
# The container is there, and goes away without a trace.
still_usable() {
    job --container-name="$1" cat /kept
    says kept
    rm -rf "$data"
    as_before
}

@test "the supervisor of a container with a name" {
    running_name name-supervisor
    # shellcheck disable=SC2046
    kill -9 $(supervisor_pids)
    # Nobody joins what nobody holds, and nobody uses the files that the tasks still use.
    job --container-name=name-supervisor:exec true
    fails "is not running"
    as "$alice" timeout 300 srun --quiet --container-name=name-supervisor cat /kept >"$BATS_TEST_TMPDIR/next" 2>&1 3>&- &
    local next=$!
    poll 30 "the next step waits" grep -q "waiting until container" "$BATS_TEST_TMPDIR/next"
    kill -0 "$(task_pid)"
    scancel --name=name-supervisor
    srun_ends
    wait "$next"
    [ "$(tail -n1 "$BATS_TEST_TMPDIR/next")" = kept ]
    still_usable name-supervisor
}

@test "slurmstepd of a container with a name" {
    running_name name-stepd
    local task
    task=$(task_pid)
    kill -9 "$(stepd_pid)"
    kill -9 "$task" 2>/dev/null || true
    scancel --name=name-stepd
    wait "$job" || true
    still_usable name-stepd
}

@test "the task of a container with a name" {
    running_name name-task
    kill -9 "$(task_pid)"
    srun_ends
    still_usable name-task
}

@test "all of slurmstepd's processes while a container with a name is made" {
    slow_import name-all --container-name=name-all
    stepds_kill "$test_state"
    scancel --name=name-all
    wait "$job" || true
    job --container-name=name-all true
    fails "does not exist"
    as_before new-packs
}

# saving NAME: a step of that name that saves its container over an old file, stopped in the middle of it; $pid is the process
# that writes.
saving() {
    work=$(alice_dir kill-save)
    echo old >"$work/saved.sqsh"
    chown "$alice:" "$work/saved.sqsh"
    start_in_background "$R#busybox" "$1" --container-writable --container-save="$work/saved.sqsh" \
        sh -c 'head -c 300000000 /dev/urandom >/large'
    stop_saver_below "$work"
}
# not_saved: the old file is there, and nothing else.
not_saved() {
    [ "$(ls -A "$work") $(cat "$work/saved.sqsh")" = "saved.sqsh old" ] || { ls -lA "$work"; cat "$BATS_TEST_TMPDIR/out"; false; }
    rm -r "$work"
    as_before
}

@test "the process that saves a container" {
    saving save-saver
    kill -9 "$pid"
    wait "$job" || true
    grep -q "pyxis: failed to export container" "$BATS_TEST_TMPDIR/out" || { cat "$BATS_TEST_TMPDIR/out"; false; }
    not_saved
}

@test "the supervisor while it saves" {
    saving save-supervisor
    # shellcheck disable=SC2046
    kill -9 $(supervisor_of "$pid")
    wait "$job" || true
    not_saved
}
supervisor_of() { ps -o ppid= -p "$1" | tr -d ' '; }

@test "all of slurmstepd's processes while a container is saved" {
    saving save-all
    stepds_kill "$test_state"
    scancel --name=save-all
    wait "$job" || true
    not_saved
}

@test "scancel while a container is saved" {
    saving save-cancel
    scancel --name=save-cancel
    kill -CONT "$pid" 2>/dev/null || true
    wait "$job" || true
    [ "$(head -c 4 "$work/saved.sqsh")" != hsqs ] || echo old >"$work/saved.sqsh"
    not_saved
}

both_run() { [ "$(task_pid | wc -l)" = 2 ]; }

@test "two nodes: the supervisors, one slurmstepd, scancel" {
    local who stepd
    for who in supervisors stepd cancel; do
        start_in_background "$R#busybox" "two-$who" -N2 -n2 sleep 7777
        poll 30 "both tasks run" both_run
        stepd=$(stepd_pid)
        case $who in
            # shellcheck disable=SC2046
            supervisors) kill -9 $(stepd_processes "$test_state" | grep -vxF "$(ps -o ppid= -p "$(task_pid | paste -sd,)" | tr -d ' ')") ;;
            stepd) kill -9 "$stepd" ;;
        esac
        [ "$who" != supervisors ] || both_run
        scancel --name="two-$who"
        # Nobody ends the task of a slurmstepd that was killed.
        [ "$who" != stepd ] || pkill -9 -u "$alice" -f '^/bin/sleep 7777$' || true
        wait "$job" || true
        as_before || { echo "after $who"; false; }
    done
}

@test "two nodes: scancel and slurmstepds during an import" {
    slow_import two-cancel -N2 -n2
    scancel --name=two-cancel
    srun_ends
    as_before new-packs
    slow_import two-stepds -N2 -n2
    stepds_kill "$test_state"
    scancel --name=two-stepds
    wait "$job" || true
    as_before new-packs
}

# oldest NAME, newest NAME, step NAME: the pid of a process called so that is not a zombie; of the guards of an entrypoint
# the outer one is the older, and slurmstepd is asked for by its title.
oldest() { pgrep -r D,R,S -o -x "$1"; }
newest() { pgrep -r D,R,S -n -x "$1"; }
step() { pgrep -o -f '^slurmstepd: \[[0-9]+\.0\]'; }
running() { [ "$(pgrep -f -c -- "$2")" = "$1" ]; }

@test "SIGKILL of whoever watches what an entrypoint left running" {
    local who
    for who in "oldest pyxis" "oldest pyxis-entry" "newest pyxis-entry" step; do
        as "$alice" ENTRY='(setsid sleep 44405 </dev/null >/dev/null 2>&1 &); sleep 44405 &' timeout 300 srun --quiet \
            --container-image="$R#entry" --container-entrypoint --container-env=ENTRY sleep 44406 >/dev/null 2>&1 &
        poll 20 "what it left" running 2 "^sleep 44405"
        poll 20 "the task" running 1 "^[a-z/]*sleep 44406"
        kill -9 "$($who)"
        poll 10 "the end of what it left, without $who" running 0 "^sleep 44405" || return
        scancel -u "$alice"
        wait $! || true
        # Nobody ends the task of a slurmstepd that was killed.
        pkill -9 -u "$alice" -f "^[a-z/]*sleep 44406" || true
    done
    [[ $(sinfo -h -o %T | sort -u) != *drain* ]] || { sinfo -R; false; }
}
