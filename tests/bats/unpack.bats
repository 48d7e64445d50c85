# Images that are unpacked to a directory: images.user_images = "unpack", and images.read_by = "unpack" for those of
# registries. On the node tiny, which has a pyxis.toml of its own.

setup() {
    load common
    policy=$test_state/tiny.toml
    cp "$policy" "$BATS_TEST_TMPDIR/policy"
    printf '[images]\nuser_images = "unpack"\nread_by = "unpack"\n' >>"$policy"
    data=/var/lib/pyxis-data/$alice_uid
}
teardown() {
    scancel --user="$alice"
    poll 20 "no task is left" no_task
    rm -rf "${data:?}"/pyxis_unpack*
    # The same file, as it is what the node has mounted.
    cat "$BATS_TEST_TMPDIR/policy" >"$policy"
}

tiny() {
    local vars=()
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    box "${vars[@]}" -p tiny "$@"
}
left() { find "$data" -maxdepth 1 -name '.unpacked.*' 2>/dev/null; }
nothing_left() { [ -z "$(left)" ]; }
no_task() { ! task_pid; }
task_pid() { pgrep -u "$alice" -f '^/bin/sleep 7777$'; }
stepd_pid() { ps -o ppid= -p "$(task_pid | head -n1)" | tr -d ' '; }
# A container that runs, with nobody but slurmstepd's processes around it.
running() {
    as "$alice" timeout 90 srun --quiet -p tiny --container-image="$R#busybox" "$@" sleep 7777 >/dev/null 2>&1 3>&- &
    background=$!
    poll 60 "the task runs" task_pid
    [ -n "$(left)" ]
}

@test "an image of a registry: its files, whose they are, read-only and writable" {
    tiny PYXIS_TRACE=1 sh -c 'stat -c %u:%a /bin/busybox; touch /new 2>&1; cat /etc/passwd | head -n1 | cut -d: -f1'
    says "$(printf '%s:755\ntouch: /new: Read-only file system\n%s' "$alice_uid" "$alice")"
    err_has '"image_read_by":"unpacked: images.read_by says so"'
    tiny --container-writable --container-remap-root sh -c 'id -u; touch /new; mv /etc /moved; stat -c %u /new /moved; test -e /etc || echo moved'
    says "$(printf '0\n0\n0\nmoved')"
    poll 10 "nothing is left" nothing_left
}

@test "a user's file, with what it says of itself" {
    mkdir "$BATS_TEST_TMPDIR/tree"
    mkdir "$BATS_TEST_TMPDIR/tree"/{bin,etc,proc,sys,dev,tmp}
    cp /bin/busybox "$BATS_TEST_TMPDIR/tree/bin/"
    for applet in sh cat stat id; do ln -s busybox "$BATS_TEST_TMPDIR/tree/bin/$applet"; done
    echo 'COLOUR=blue' >"$BATS_TEST_TMPDIR/tree/etc/environment"
    echo "tmpfs /scratch tmpfs x-create=dir,size=1m" >"$BATS_TEST_TMPDIR/tree/etc/fstab"
    mksquashfs "$BATS_TEST_TMPDIR/tree" "$alice_home/unpack.sqsh" -all-root -quiet -no-progress >/dev/null
    job PYXIS_TRACE=1 -p tiny --container-image="$alice_home/unpack.sqsh" sh -c 'echo $COLOUR; echo x >/scratch/x && cat /scratch/x'
    rm "$alice_home/unpack.sqsh"
    says "$(printf 'blue\nx')"
    err_has '"image_read_by":"unpacked: '
    poll 10 "nothing is left" nothing_left
}

@test "a container with a name keeps its directory, and needs no image any more" {
    tiny --container-name=unpack1 --container-writable sh -c 'echo kept >/kept'
    ok
    [ -f "$data/pyxis_unpack1/upper/kept" ]
    [ "$(stat -c %a "$data/pyxis_unpack1")" = 700 ]
    job -p tiny --container-name=unpack1 sh -c 'cat /kept; echo $PATH | grep -c bin'
    says "$(printf 'kept\n1')"
    nothing_left
    # Where images can be mounted again it is still what it is.
    cat "$BATS_TEST_TMPDIR/policy" >"$policy"
    job -p tiny --container-name=unpack1 cat /kept
    says kept
}

@test "it can be saved, with and without a name" {
    local work
    work=$(alice_dir unpack)
    tiny --container-writable --container-save="$work/x.sqsh" sh -c 'echo changed >/etc/motd; rm /bin/true'
    ok
    err_has "exported container"
    [ "$(unsquashfs -cat "$work/x.sqsh" etc/motd)" = changed ]
    [[ $(unsquashfs -ll "$work/x.sqsh") != *bin/true* ]]
    tiny --container-name=unpack2 --container-save="$work/y.sqsh" true
    ok
    [[ $(unsquashfs -ll "$work/y.sqsh") == *bin/true* ]]
    job -p tiny --container-image="$work/x.sqsh" cat /etc/motd
    says changed
    rm -rf "$work"
    poll 10 "nothing is left" nothing_left
}

@test "steps share a container that runs, and the last one removes it" {
    running --job-name=unpackshare
    local id
    id=$(squeue -h -o %A --name=unpackshare)
    job -p tiny --overlap --jobid="$id" --container-name="$id.0" sh -c 'echo joined; ls -d /bin'
    says "$(printf 'joined\n/bin')"
    [ -n "$(left)" ]
    scancel "$id"
    wait "$background" || true
    poll 20 "nothing is left" nothing_left
}

@test "SIGKILL of everything leaves a directory that the end of the job removes" {
    running
    stepd_processes "$test_state" | xargs kill -9
    pkill -9 -u "$alice" -f '^/bin/sleep 7777$'
    scancel --user="$alice"
    wait "$background" || true
    poll 30 "nothing is left" nothing_left
}

@test "what was left is removed by who comes next, and what is held is not" {
    running
    mkdir "$data/.unpacked.old.0" "$data/.unpacked.old.0/upper"
    chown -R "$alice:" "$data/.unpacked.old.0"
    tiny true
    ok
    [ ! -e "$data/.unpacked.old.0" ]
    [ -n "$(left)" ]
    scancel --user="$alice"
    wait "$background" || true
    poll 20 "nothing is left" nothing_left
}

@test "a disk that is too small is one line" {
    printf '[container]\ndata_path = "%s"\n' "$BATS_TEST_TMPDIR/small" >>"$policy"
    mkdir -m 0755 "$BATS_TEST_TMPDIR/small"
    nsenter -t "$(cut -d' ' -f1 "$test_state/pid/slurmd-tiny")" -m mount -t tmpfs -o size=512k,mode=0755 small "$BATS_TEST_TMPDIR/small"
    tiny true
    nsenter -t "$(cut -d' ' -f1 "$test_state/pid/slurmd-tiny")" -m umount "$BATS_TEST_TMPDIR/small"
    fails "unpack $R#busybox: it takes" "the disk of container.data_path has 0 MiB"
}

@test "data files are not unpacked" {
    mkdir "$BATS_TEST_TMPDIR/tree"
    mksquashfs "$BATS_TEST_TMPDIR/tree" "$alice_home/unpack.sqsh" -all-root -quiet -no-progress >/dev/null
    tiny --container-mounts="$alice_home/unpack.sqsh:/data:squashfs" true
    rm "$alice_home/unpack.sqsh"
    fails "only images are unpacked"
}
