# Options of srun that have nothing to do with containers do the same with one. Checks run both ways and compare.

setup() {
    load common
    work=$(alice_dir "step-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$work"; }

@test "--export: nothing, everything, some" {
    # shellcheck disable=SC2016
    local show_them='echo "A=$A B=$B C=${C-unset}"'
    same A=1 B=2 /bin/sh -c "$show_them"
    says "A=1 B=2 C=unset"
    same A=1 B=2 --export=NONE /bin/sh -c "$show_them"
    says "A= B= C=unset"
    same A=1 B=2 --export=ALL,C=3 /bin/sh -c "$show_them"
    says "A=1 B=2 C=3"
    same A=1 B=2 --export=B,C=4 /bin/sh -c "$show_them"
    says "A= B=2 C=4"
}

@test "--chdir is where relative mounts start, and not the container's working directory" {
    echo mine >"$work/file"
    mkdir "$work/below"
    job --container-image="$R#busybox" --chdir="$work" --container-mounts=./file:/mnt/file sh -c 'cat /mnt/file; pwd'
    says "$(printf 'mine\n/')"
    job --chdir=/no/such/directory --container-image="$R#busybox" pwd
    ok
    out_has /
}

@test "--ntasks-per-node, --nodelist, --exclude, --distribution: every task where it belongs" {
    # shellcheck disable=SC2016
    local where='echo "$SLURM_PROCID $SLURM_LOCALID $SLURMD_NODENAME"'
    same -N2 --ntasks-per-node=2 --distribution=cyclic sh -c "$where"
    ok
    [ "$(sort <<<"$output")" = "$(printf '0 0 n1\n1 0 n2\n2 1 n1\n3 1 n2')" ]
    same --nodelist=n2 -n1 sh -c "$where"
    says "0 0 n2"
    same --exclude=n1 -n2 --distribution=block sh -c "$where"
    out_has "1 1 n2"
}

@test "--multi-prog: a command for each task, with its own file system" {
    printf '0 echo zero %%t\n1-2 echo %%o of others\n' >"$work/plan"
    same -n3 --multi-prog "$work/plan"
    ok
    [ "$(sort <<<"$output")" = "$(printf '0 of others\n1 of others\nzero 0')" ]
    printf '0 grep -h PRETTY /etc/os-release\n1 no-such-command\n' >"$work/plan"
    job -n2 --container-image="$R#busybox" --multi-prog "$work/plan"
    [ "$status" = 2 ]
    out_has "Busybox in a container"
}

@test "--immediate, --exclusive, --cpus-per-task, --mem-bind and --cpu-bind are no concern of the container" {
    same --immediate=20 --cpus-per-task=2 --cpu-bind=none sh -c 'echo $SLURM_CPUS_PER_TASK'
    says 2
}

@test "--overlap: a second step beside the first, and one after the other" {
    run --separate-stderr as "$alice" salloc --quiet -n1 sh -c "
        mkfifo '$work/go'
        srun --quiet --container-image='$R#busybox' --container-mounts='$work:/work' cat /work/go & first=\$!
        srun --quiet --overlap --container-image='$R#rich' --container-mounts='$work:/work' sh -c 'only-here >/work/go'
        wait \$first; echo code \$?
        srun --quiet grep -c Debian /etc/os-release"
    ok
    out_has "from the image"
    out_has "code 0"
}

@test "srun of a job that exists: --jobid" {
    run --separate-stderr as "$alice" salloc --quiet -n1 sh -c "
        env -u SLURM_JOB_ID srun --quiet --overlap --jobid=\$SLURM_JOB_ID --container-image='$R#busybox' grep PRETTY /etc/os-release"
    says 'PRETTY_NAME="Busybox in a container"'
}

@test "eight steps of one job at once" {
    run --separate-stderr as "$alice" salloc --quiet -n8 sh -c "
        for n in 1 2 3 4 5 6 7 8; do srun --quiet -n1 --exact --container-image='$R#busybox' sh -c \"grep -q Busybox /etc/os-release && echo step \$n\" & done
        wait"
    ok
    [ "$(sort <<<"$output" | uniq)" = "$(printf 'step %s\n' 1 2 3 4 5 6 7 8)" ] || { show; false; }
}
