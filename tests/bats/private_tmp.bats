# Jobs with a /tmp of their own (Slurm's job_container/tmpfs): a container's mount sources are those of the job, not the
# node's. Runs on a cluster of its own kind (`tests/cluster/up private-tmp`).

setup() { load common; }

@test "a mount source in the job's own /tmp" {
    # shellcheck disable=SC2016
    run --separate-stderr as "$alice" timeout 300 salloc --quiet -w n1 sh -c '
        srun --quiet sh -c "echo mine >/tmp/pyxis-of-the-job"
        srun --quiet --container-image='"$R#busybox"' --container-mounts=/tmp/pyxis-of-the-job:/f cat /f'
    says mine
    [ ! -e /tmp/pyxis-of-the-job ]
}

@test "TaskProlog sees it too, and mount sources see what TaskProlog leaves there" {
    install -o "$alice" -m 0644 /dev/stdin "$alice_home/task-prolog" <<<'touch /tmp/made-by-prolog'
    box --container-mounts=/tmp/made-by-prolog:/mnt/file test -e /mnt/file
    rm "$alice_home/task-prolog"
    ok
    [ ! -e /tmp/made-by-prolog ]
}

@test "the node's /tmp is not the job's" {
    local file=/tmp/pyxis-of-the-node
    install -o "$alice" /dev/null "$file"
    box --container-mounts="$file:/f" cat /f
    rm "$file"
    fails "source path does not exist: $file"
}

@test "nothing is left of the container" {
    box true
    ok
    remember_host
    box true
    ok
    as_before
}
