# Imports with control groups: what takes memory and time is done in the job's. On a cluster of its own (`up cgroup`).

setup() {
    load common
    work=$(alice_dir "cgroup-$BATS_TEST_NUMBER")
}
teardown() {
    scancel --user="$alice" --name="cgroup-$BATS_TEST_NUMBER"
    rm -rf "$work"
}

worker_pids() {
    local dir
    for dir in /proc/[0-9]*; do
        [ "$(readlink "$dir/exe" 2>/dev/null)" != /usr/libexec/pyxis/worker ] || echo "${dir#/proc/}"
    done
}
layer_worker() { pgrep -f '^worker layer' >/dev/null; }
no_worker() {
    local pid
    for pid in $(worker_pids); do
        ! grep -qs "/job_$id/" "/proc/$pid/cgroup" || return 1
    done
}
# The groups that are the job's own.
groups_of() { grep -E "/job_$id/" "/proc/$1/cgroup" | sort; }

# An import that takes a minute, in the background.
slow_import() {
    as "$alice" timeout 300 srun --job-name="cgroup-$BATS_TEST_NUMBER" --container-image="$H#slow-layer/cgroup-$$-$BATS_TEST_NUMBER" \
        "$@" true >"$work/out" 2>&1 3>&- &
    background=$!
    poll 30 "the layer is packed" layer_worker
    id=$(squeue -h -n "cgroup-$BATS_TEST_NUMBER" -o %i)
}

@test "the workers of an import are where the task is" {
    slow_import
    local task role
    for task in $(pgrep -u "$alice" -x pyxis-task); do
        [ -z "$(groups_of "$task")" ] || break
    done
    [ -n "$(groups_of "$task")" ]
    for role in download layer; do
        same_groups "$role" "$task" || { echo "no $role worker is in the groups of the task"; cat "/proc/$task/cgroup"; false; }
    done
    scancel "$id"
    wait "$background" || true
    poll 10 "no worker is left" no_worker
    poll 20 "the job's groups are gone" no_groups
}
# A worker of this role is in the groups of the task, and is not protected when memory is short.
same_groups() {
    local pid
    for pid in $(pgrep -f "^worker $1"); do
        [ "$(groups_of "$pid")" != "$(groups_of "$2")" ] || [ "$(cat "/proc/$pid/oom_score_adj")" -lt 0 ] || return 0
    done
    return 1
}
no_groups() { [ -z "$(find /sys/fs/cgroup -maxdepth 6 -type d -name "job_$id" 2>/dev/null)" ]; }

@test "a process that the task leaves behind ends with the step" {
    box sh -c 'sleep 7655 >/dev/null 2>&1 & echo left'
    says left
    poll 10 "it is gone" nothing_sleeps
}
nothing_sleeps() { ! pgrep -u "$alice" -f '^sleep 7655'; }

@test "an import beyond the job's memory is one clear line, and hurts nobody else" {
    # Slurm takes 30 MiB for the least that a job can have; one layer's names need more than is left.
    job --mem=30M --container-image="$H#many-files/memory-$$" true
    fails "failed to import docker image" "was killed; is it out of memory?"
    job --mem=300M --container-image="$H#many-files/memory-$$" cat /repository
    says "many-files/memory-$$"
}
