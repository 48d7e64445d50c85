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
    # Slurm lets it wait two minutes then, as a node refuses what was allowed before it was told to end the first run, down to the
    # second.
    poll 30 "the first run has ended" waits "$id"
    scontrol update "jobid=$id" starttime=now+3
    poll 60 "the job has run again" grep -q '^run 1' "$work/out"
    [ "$(grep -c '^run 1: ls: /left: No such file or directory' "$work/out")" = 1 ] || { cat "$work/out"; false; }
    poll 30 "the job ends" ended "$id"
}
state() { squeue -h -j "$1" -o %T; }
waits() { [ "$(state "$1")" = PENDING ]; }
ended() { [[ $(state "$1") =~ ^(COMPLETED)?$ ]]; }
