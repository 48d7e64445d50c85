# --container-mounts: SRC[:DST[:FLAGS]][,...]

setup() {
    load common
    work=$(alice_dir "mounts-$BATS_TEST_NUMBER")
    echo from-host >"$work/file"
    mkdir "$work/dir"
    echo in-dir >"$work/dir/inner"
    chown -R "$alice:" "$work"
}
teardown() { rm -rf "$work"; }

@test "a source alone appears under the same path" {
    box --container-mounts="$work" cat "$work/file"
    says from-host
}

@test "a directory at another path, which is made" {
    box --container-mounts="$work:/made/here" cat /made/here/dir/inner
    says in-dir
}

@test "a file at a path that is made" {
    box --container-mounts="$work/file:/made/a-file" sh -c 'test -f /made/a-file && cat /made/a-file'
    says from-host
}

@test "a file over a file of the image" {
    box --container-mounts="$work/file:/etc/os-release" cat /etc/os-release
    says from-host
}

@test "several in one value, and the option given twice" {
    box --container-mounts="$work/file:/one,$work/dir:/two" --container-mounts="$work:/three" \
        sh -c 'cat /one /two/inner /three/file'
    says "$(printf '%s\n' from-host in-dir from-host)"
}

@test "spaces in paths" {
    mkdir "$work/with a space"
    echo spacious >"$work/with a space/f"
    box --container-mounts="$work/with a space:/at a space" cat "/at a space/f"
    says spacious
}

@test "a relative source starts at the job's working directory" {
    run --separate-stderr as "$alice" sh -c "cd '$work' && srun --quiet --container-image='$R#busybox' --container-mounts=./dir:/d,./dir/../dir:/e cat /d/inner /e/inner"
    says "$(printf 'in-dir\nin-dir')"
}

@test "a target that starts with a dot is below the root" {
    box --container-mounts="$work:./here" cat /here/file
    says from-host
}

@test "mounts are read-write unless told otherwise" {
    box --container-mounts="$work:/w" sh -c 'echo new >/w/made && chmod 600 /w/made'
    ok
    [ "$(cat "$work/made")" = new ]
    [ "$(stat -c %U "$work/made")" = "$alice" ]
}

@test "ro, also for what is mounted below the source" {
    box --container-mounts="$work:/w:ro" touch /w/x
    dies "Read-only file system"
    [ ! -e "$work/x" ]
    box --container-mounts="/dev:/d:ro" touch /d/shm/x
    dies "Read-only file system"
}

@test "nosuid, nodev and noexec" {
    printf '#!/bin/sh\necho ran\n' >"$work/script"
    chmod 755 "$work/script"
    box --container-mounts="$work:/w" /w/script
    says ran
    box --container-mounts="$work:/w:noexec+nosuid+nodev" grep ' /w ' /proc/self/mountinfo
    ok; out_has nosuid; out_has nodev; out_has noexec
    box --container-mounts="$work:/w:noexec" sh -c 'exec /w/script'
    dies "Permission denied"
}

@test "what is mounted below a source comes along, with bind too: nothing that the host covers is uncovered" {
    mkdir "$work/dir/covered"
    echo hidden >"$work/dir/covered/f"
    mount -t tmpfs cover "$work/dir/covered"
    box --container-mounts="$work:/d:bind,$work:/e" sh -c 'ls /d/dir/covered /e/dir/covered; grep -c "/dir/covered " /proc/self/mountinfo'
    umount "$work/dir/covered"
    says "$(printf '/d/dir/covered:\n\n/e/dir/covered:\n2')"
}

@test "propagation flags" {
    box --container-mounts="$work:/w:rslave" true
    ok
    box --container-mounts="$work:/w:private" grep ' /w ' /proc/self/mountinfo
    ok; out_lacks shared; out_lacks master
    box --container-mounts="$work:/w:unbindable+ro" grep ' /w ro,.* unbindable - ' /proc/self/mountinfo
    ok
}

@test "tmpfs, with and without data" {
    box --container-mounts=tmpfs:/scratch sh -c 'echo x >/scratch/x && cat /scratch/x && stat -f -c %T /scratch'
    says "$(printf 'x\ntmpfs')"
    box --container-mounts=tmpfs:/scratch:size=64k sh -c 'df -k /scratch | tail -n1'
    ok; out_has " 64 "
}

@test "umount takes a system mount away" {
    box --container-mounts=umount:/tmp sh -c 'grep -c " /tmp " /proc/self/mountinfo'
    [ "$output" = 0 ]
}

@test "x-create says what is made" {
    box --container-mounts="$work/dir:/a/b/c:x-create=dir" cat /a/b/c/inner
    says in-dir
    box --container-mounts="$work/file:/a/b/c:x-create=file" cat /a/b/c
    says from-host
}

@test "nofail passes over a missing source, silent without a word" {
    box --container-mounts="$work/nowhere:/w:nofail" true
    ok
    box --container-mounts="$work/nowhere:/w:nofail+silent" true
    ok
    err_lacks nowhere
}

@test "a later mount may lie in an earlier one" {
    box --container-mounts="$work:/w,tmpfs:/w/dir,$work/file:/w/dir/f" sh -c 'ls /w/dir; cat /w/dir/f'
    says "$(printf 'f\nfrom-host')"
}

@test "mounts may lie in the system's tmpfs" {
    box --container-mounts="$work:/tmp/w,$work:/run/w" cat /tmp/w/file /run/w/file
    says "$(printf 'from-host\nfrom-host')"
}

@test "missing source" {
    box --container-mounts="$work/nowhere:/w" echo ran
    fails "source path does not exist: $work/nowhere"
}

@test "a target that climbs out of the root file system" {
    local before
    before=$(grep -c . /proc/self/mountinfo)
    box --container-mounts="$work:../home" echo ran
    fails "cross-device link"
    box --container-mounts="$work:./../../home" echo ran
    fails "cross-device link"
    [ "$(grep -c . /proc/self/mountinfo)" = "$before" ]
}

@test "a source that the user may not read" {
    install -d -m 0700 "$work/secret"
    chown root: "$work/secret"
    echo hidden >"$work/secret/f"
    box --container-mounts="$work/secret/f:/f" cat /f
    fails "permission denied" "$work/secret/f"
    box --container-mounts="/root/.profile:/f" cat /f
    fails "permission denied"
}

@test "a source behind a directory that only another user may enter" {
    chmod 0700 "$work"
    run --separate-stderr as "$bob" srun --quiet --container-image="$R#busybox" --container-mounts="$work/file:/f" cat /f
    fails "permission denied"
}

@test "a supplementary group opens a source, and what is in it" {
    install -d -o root -g pyxis-team -m 0750 "$test_state/team"
    install -m 0640 -g pyxis-team /dev/stdin "$test_state/team/f" <<<shared
    box --container-mounts="$test_state/team:/team" cat /team/f
    says shared
    run --separate-stderr as "$bob" srun --quiet --container-image="$R#busybox" --container-mounts="$test_state/team:/team" cat /team/f
    [ "$status" != 0 ]
    [ "$output" = "" ]
}

@test "a source that is read-only on the host stays so" {
    install -d "$test_state/ro"
    mount --bind "$work" "$test_state/ro"
    mount -o remount,bind,ro "$test_state/ro"
    box --container-mounts="$test_state/ro:/w:rw" touch /w/x
    umount "$test_state/ro"
    dies "Read-only file system"
    [ ! -e "$work/x" ]
}

@test "PYXIS_CONTAINER_MOUNTS" {
    job PYXIS_CONTAINER_MOUNTS="$work:/w" --container-image="$R#busybox" cat /w/file
    says from-host
}
