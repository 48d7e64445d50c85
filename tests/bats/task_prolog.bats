# The site's TaskProlog and TaskEpilog run on the host, as without a container, whatever the image has. On a cluster of its
# own (`up task-prolog`), whose programs do what files in the user's home say.

setup() {
    load common
    rm -f "$alice_home"/task-*
    work=$(alice_dir "prolog-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$alice_home"/task-* "$work"; }

# site_says prolog|epilog <SCRIPT
site_says() { install -o "$alice" -m 0644 /dev/stdin "$alice_home/task-$1"; }

@test "what TaskProlog exports, unsets and prints reaches the task, with and without a container" {
    site_says prolog <<'SCRIPT'
echo "export FROM_PROLOG=two words of task $SLURM_PROCID"
echo "unset SECRET"
echo "print hello from the prolog"
echo "noise"
SCRIPT
    # shellcheck disable=SC2016
    same SECRET=x -n2 sh -c 'echo "task $SLURM_PROCID: $FROM_PROLOG, ${SECRET-no secret}"'
    ok
    [ "$(sort <<<"$output")" = "$(printf '%s\n' 'hello from the prolog' 'hello from the prolog' \
        'task 0: two words of task 0, no secret' 'task 1: two words of task 1, no secret')" ] || { show; false; }
}

@test "it runs once for each task, as the user, in the job's directory, with the host's files" {
    site_says prolog <<SCRIPT
echo "print \$(id -u) \$(pwd) \$(grep -c Busybox /etc/os-release)"
echo x >>"$work/runs"
SCRIPT
    cd "$work"
    box --chdir="$work" -n2 true
    [ "$(wc -l <"$work/runs")" = 2 ]
    [ "$(grep -c "^$alice_uid $work 0$" <<<"$output")" = 2 ] || { show; false; }
}

@test "an image without a shell, without a C library, read-only, remapped, with the site's directory mounted" {
    site_says prolog <<<'echo "export SAID=yes"'
    job --container-image="$R#bare" /busybox sh -c 'echo $SAID'
    says yes
    box --container-readonly --container-remap-root sh -c 'echo $SAID'
    says yes
    box --container-mounts="$test_state/task-prolog,$work" sh -c 'echo $SAID'
    says yes
}

@test "the image's variables win over the prolog's, unless --container-env says otherwise" {
    site_says prolog <<<'echo "export SHARED=prolog"; echo "export PATH=/prolog:$PATH"'
    job --container-image="$R#rich" sh -c 'echo $SHARED; only-here'
    says "$(printf 'image\nfrom the image')"
    job --container-image="$R#rich" --container-env=SHARED sh -c 'echo $SHARED'
    says prolog
}

@test "a TaskProlog that fails ends the task before it runs, with its code" {
    site_says prolog <<<'echo "no space on this node" >&2; exit 9'
    local container
    for container in "" "--container-image=$R#busybox"; do
        # shellcheck disable=SC2086
        job $container echo ran
        [ "$status" = 9 ]
        [ "$output" = "" ]
        err_has "TaskProlog"
    done
    err_has "TaskProlog $test_state/task-prolog failed with exit code 9: no space on this node"
}

@test "a batch script in a container" {
    site_says prolog <<<'echo "export FROM_PROLOG=batch"'
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out --container-image='$R#busybox' --wrap='echo \$FROM_PROLOG; grep -c Busybox /etc/os-release'; cat out"
    [[ $output == *$'batch\n1' ]] || { echo "$output"; false; }
}

@test "TaskEpilog runs on the host, after the task, also of one that was killed" {
    site_says epilog <<SCRIPT
echo "\$(id -u) \$(grep -c Busybox /etc/os-release) \$SLURM_PROCID" >>"$work/epilog"
SCRIPT
    box true
    ok
    [ "$(cat "$work/epilog")" = "$alice_uid 0 0" ]
    box sh -c 'kill -9 $$'
    [ "$status" = 137 ]
    [ "$(wc -l <"$work/epilog")" = 2 ]
}

@test "srun's own --task-prolog is a program of the container, --task-epilog one of the host" {
    printf '%s\n' '#!/bin/sh' 'echo "export WHERE=$(grep -c Busybox /etc/os-release)"' | install -o "$alice" -m 0755 /dev/stdin "$work/mine"
    printf '%s\n' '#!/bin/sh' "grep -c Busybox /etc/os-release >$work/epilog" | install -o "$alice" -m 0755 /dev/stdin "$work/after"
    box --container-mounts="$work" --task-prolog="$work/mine" --task-epilog="$work/after" sh -c 'echo $WHERE'
    says 1
    [ "$(cat "$work/epilog")" = 0 ]
}

@test "what is in TaskProlog's place is mounted, so it is in no container that is kept or saved" {
    local name=prolog-$$ dir
    site_says prolog <<<'echo "export SAID=yes"'
    dir=/var/lib/pyxis-data/$alice_uid/pyxis_$name
    box --container-name="$name" --container-writable --container-save="$work/x.sqsh" sh -c 'echo $SAID'
    says yes
    [ -d "$dir/upper" ] && [ ! -s "$dir/upper$test_state/task-prolog" ]
    [ "$(unsquashfs -cat "$work/x.sqsh" "${test_state#/}/task-prolog" | wc -c)" = 0 ]
    job --container-name="$name" sh -c 'echo $SAID'
    says yes
    job --container-image="$work/x.sqsh" sh -c 'echo $SAID'
    says yes
    rm -rf "$dir"
}
