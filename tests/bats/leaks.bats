# Nothing stays behind: mounts, loop devices, processes, files. These run alone: they look at the whole machine.

setup() {
    load common
    # The images are in the store before anything is compared.
    box true
    ok
    job --container-image="$R#shapes" true
    ok
    remember_host
}

@test "after one start" {
    box true
    ok
    as_before
}

@test "after 200 starts in a row" {
    local n
    for n in $(seq 200); do
        as "$alice" srun --quiet --container-image="$R#busybox" true || { echo "start $n failed"; false; }
    done
    as_before
}

@test "after 8 starts at once, five times" {
    local n round pids
    for round in $(seq 5); do
        pids=()
        for n in $(seq 8); do
            as "$alice" srun --quiet --container-image="$R#shapes" true 3>&- &
            pids+=($!)
        done
        for n in "${pids[@]}"; do wait "$n" || { echo "round $round: a start failed"; false; }; done
    done
    as_before
}

@test "after steps over two nodes with many tasks" {
    job -N2 -n16 --container-image="$R#busybox" --container-writable true
    ok
    as_before
}

# With a name, an entrypoint that leaves something running, and a save, all at once; and joined meanwhile.
@test "after containers that are kept, run an entrypoint, are joined and saved, on one node and on two" {
    local nodes work
    work=$(alice_dir leaks)
    job --container-image="$R#entry" true
    remember_host
    for nodes in 1 2; do
        job ENTRY='sleep 44407 & (setsid sleep 44407 >/dev/null 2>&1 &)' "-N$nodes" "-n$((nodes * 2))" --container-image="$R#entry" \
            --container-name=leaks --container-writable --container-entrypoint --container-env=ENTRY sh -c 'echo x >>/made'
        ok
        job "-N$nodes" "-n$((nodes * 2))" --container-name=leaks --container-writable sh -c 'echo x >>/made'
        ok
        job -N1 -n2 --container-name=leaks --container-save="$work/saved.sqsh" true
        ok
        err_has "exported container pyxis_leaks"
        job "-N$nodes" "-n$((nodes * 2))" --container-image="$work/saved.sqsh" test -s /made
        ok
        rm -r "/var/lib/pyxis-data/$alice_uid/pyxis_leaks"
    done
    [ "$(ls -A "$work")" = saved.sqsh ]
    rm -r "$work"
    as_before
}

@test "after names, entrypoints and saves that fail, on one node and on two" {
    local nodes work
    work=$(alice_dir leaks)
    job --container-image="$R#entry" true
    remember_host
    for nodes in 1 2; do
        job "-N$nodes" --container-name=leaks true
        dies "container leaks does not exist"
        job "-N$nodes" --container-name=leaks --container-image="$R#busybox" --container-mounts=/no/such:/x true
        dies "source path does not exist"
        job ENTRY='sleep 44407 & exit 3' "-N$nodes" --container-name=leaks --container-image="$R#entry" --container-entrypoint \
            --container-env=ENTRY true
        dies "the image's entrypoint /opt/bin/entry failed with exit code 3"
        box "-N$nodes" --container-save="$work/none/x.sqsh" true
        err_has "failed to export container"
        box "-N$nodes" --container-save=/proc/x.sqsh true
        err_has "failed to export container"
    done
    [ ! -e "/var/lib/pyxis-data/$alice_uid/pyxis_leaks" ]
    [ -z "$(ls -A "$work")" ]
    rm -r "$work"
    as_before
}

@test "after starts that fail at every stage" {
    box --container-mounts=/no/such:/x true
    [ "$status" != 0 ]
    box --container-mounts=/tmp:../x true
    [ "$status" != 0 ]
    box --container-workdir=/no/such true
    [ "$status" != 0 ]
    box /no/such/command
    [ "$status" != 0 ]
    box sh -c 'kill -9 $$'
    [ "$status" != 0 ]
    job -n4 --container-image="$R#no/such/image" true
    [ "$status" != 0 ]
    as_before
}

@test "what a task left in the background keeps its container, and takes it along" {
    # Without cgroups Slurm itself loses sight of such processes.
    box sh -c 'sleep 2222 >/dev/null 2>&1 & exit 0'
    ok
    pkill -u "$alice" -f '^sleep 2222$'
    as_before
}

@test "after scancel of a running container" {
    as "$alice" srun --quiet --container-image="$R#busybox" --job-name=leak-cancel sleep 1000 3>&- &
    local pid=$!
    poll 20 "the task runs" pgrep -u "$alice" -f 'sleep 1000$'
    scancel --name=leak-cancel
    wait "$pid" || true
    as_before
}

@test "a user's files under /tmp of the container never reach the host" {
    box sh -c 'echo x >/tmp/pyxis-inside; echo x >/run/pyxis-inside; mkdir -p /tmp/a/b'
    ok
    as_before
}
