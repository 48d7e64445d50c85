# Job arrays, requeued jobs, and many steps: each gets a container of its own and leaves nothing for the next.

setup() {
    load common
    work=$(alice_dir "arrays-$BATS_TEST_NUMBER")
}
teardown() {
    scancel --user="$alice" --name="arrays-$BATS_TEST_NUMBER"
    rm -rf "$work"
}

# submit ARGUMENTS... <SCRIPT: sbatch in $work; prints the job's number, after its end with --wait.
submit() {
    install -o "$alice" -m 0755 /dev/stdin "$work/script"
    # shellcheck disable=SC2016
    as "$alice" sh -c 'cd "$0" && exec timeout 300 sbatch --parsable "$@" script' "$work" \
        --job-name="arrays-$BATS_TEST_NUMBER" "$@"
}

@test "each task of an array has its own container" {
    submit --wait --array=1-4 --output='out%a' --container-image="$R#busybox" --container-writable <<'SCRIPT'
#!/bin/sh
test ! -e /left && echo clean
echo "$SLURM_ARRAY_TASK_ID" >/left
cat /left; grep PRETTY /etc/os-release
SCRIPT
    local n
    for n in 1 2 3 4; do
        [ "$(grep -v ^pyxis: "$work/out$n")" = "$(printf 'clean\n%s\nPRETTY_NAME="Busybox in a container"' $n)" ] ||
            { cat "$work/out$n"; false; }
    done
}

@test "an array of ordinary scripts whose steps have containers" {
    submit --wait --array=1-3 --output='out%a' <<SCRIPT
#!/bin/sh
srun --quiet --container-image=$R#busybox sh -c 'echo "\$SLURM_ARRAY_TASK_ID"; grep PRETTY /etc/os-release'
SCRIPT
    local n
    for n in 1 2 3; do
        [ "$(grep -v ^pyxis: "$work/out$n")" = "$(printf '%s\nPRETTY_NAME="Busybox in a container"' $n)" ] || { cat "$work/out$n"; false; }
    done
}

@test "a job that is requeued starts with a fresh container" {
    local id
    id=$(submit --requeue --output=out --open-mode=append --container-image="$R#busybox" --container-writable \
        --container-mounts="$work:/work" <<'SCRIPT'
#!/bin/sh
echo "run ${SLURM_RESTART_COUNT:-0}: $(ls /left 2>&1)"
echo x >/left
[ -z "$SLURM_RESTART_COUNT" ] || exit 0
touch /work/ready
exec sleep 60
SCRIPT
    )
    poll 30 "the job runs" test -e "$work/ready"
    scontrol requeue "$id"
    poll 180 "the job has run again" runs_again "$id"
    [ "$(grep -c '^run 1: ls: /left: No such file or directory' "$work/out")" = 1 ] || { cat "$work/out"; false; }
    poll 30 "the job ends" ended "$id"
}
# A requeued job waits two minutes, counted from when slurmctld has done with its first run, unless an operator says otherwise;
# who says so all the time keeps the scheduler from looking.
runs_again() {
    grep -q '^run 1' "$work/out" && return
    [ $((SECONDS % 5)) != 0 ] || scontrol update "jobid=$1" starttime=now
    false
}
ended() { [ -z "$(squeue -h -j "$1" -o %T)" ] || [ "$(squeue -h -j "$1" -o %T)" = COMPLETED ]; }
