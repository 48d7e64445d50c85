# --container-image=/path and ./path: squashfs files, who reads them, what they bring, and what is wrong with them.

setup_file() {
    load common
    export IMAGES=$BATS_FILE_TMPDIR TRUSTED=/var/lib/pyxis-test-images.$$
    chmod 0755 "$IMAGES" "$BATS_RUN_TMPDIR"
    mkdir -m 0755 "$TRUSTED"
    local tree=$IMAGES/tree
    mkdir -p "$tree"/{bin,etc,proc,sys,dev,tmp,root,opt}
    cp /bin/busybox "$tree/bin/busybox"
    for applet in sh cat id stat touch rm mv ls grep echo true env sleep kill dd sha256sum; do
        ln -s busybox "$tree/bin/$applet"
    done
    echo 'PRETTY_NAME="A file"' >"$tree/etc/os-release"
    printf '# made by enroot\nPATH=/opt:/bin\nCOLOUR=blue\nWHERE=${HOME}/x\n' >"$tree/etc/environment"
    echo '${ENROOT_ROOTFS}/tmp /tmp none x-create=dir,bind,rw,nosuid,nodev' >"$tree/etc/fstab"
    echo 'exec "$@"' >"$tree/etc/rc"
    mksquashfs "$tree" "$IMAGES/x.sqsh" -all-root -quiet -no-progress >/dev/null
    cp "$IMAGES/x.sqsh" "$TRUSTED/x.sqsh"
    chmod 0644 "$IMAGES/x.sqsh" "$TRUSTED/x.sqsh"
}

setup() { load common; }

teardown_file() { rm -rf "$TRUSTED"; }

# readers: the processes that read image files for alice.
readers() { pgrep -u "$alice_uid" -x squashfuse_ll; }
no_readers() { ! readers; }

@test "a user's file is read by a process of his, which is gone with the step" {
    ! images_are_unpacked || skip "nobody reads an image that is unpacked"
    cp "$IMAGES/x.sqsh" "$alice_home/mine.sqsh"
    chown "$alice:" "$alice_home/mine.sqsh"
    for name in "$alice_home/mine.sqsh" ./mine.sqsh; do
        job PYXIS_TRACE=1 --container-image="$name" sh -c 'grep PRETTY /etc/os-release; stat -c %u /bin/busybox'
        says "$(printf 'PRETTY_NAME="A file"\n%s' "$alice_uid")"
        err_has '"image_read_by":"squashfuse_ll: '
    done
    rm "$alice_home/mine.sqsh"
    poll 10 "the readers are gone" no_readers
}

@test "a file that only root can change is mounted by the kernel" {
    job PYXIS_TRACE=1 --container-image="$TRUSTED/x.sqsh" sh -c 'grep PRETTY /etc/os-release; stat -c %u /bin/busybox'
    says "$(printf 'PRETTY_NAME="A file"\n%s' "$alice_uid")"
    if kernel_mounts; then
        err_has '"image_read_by":"kernel: only root'
    elif images_are_unpacked; then
        err_has '"image_read_by":"unpacked: this kernel has no fuse file system'
    else
        err_has '"image_read_by":"squashfuse_ll: mount layer 1 of 1: this kernel cannot map'
    fi
}

@test "a user's directory or link above it, and who may write it, make it a user's" {
    ! images_are_unpacked || skip "whosever it is, it is unpacked"
    local dir
    dir=$(alice_dir above)
    cp "$IMAGES/x.sqsh" "$dir/roots.sqsh"
    ln -s "$TRUSTED/x.sqsh" "$dir/link.sqsh"
    for file in roots link; do
        job PYXIS_TRACE=1 --container-image="$dir/$file.sqsh" true
        ok; err_has "squashfuse_ll: $alice_home"
    done
    chmod 0664 "$TRUSTED/x.sqsh"
    job PYXIS_TRACE=1 --container-image="$TRUSTED/x.sqsh" true
    chmod 0644 "$TRUSTED/x.sqsh"
    ok; err_has "squashfuse_ll: others than its owner can write to $TRUSTED/x.sqsh"
}

@test "/etc/environment of the image, with the job's variables; the image's PATH; no rc without an entrypoint" {
    job --container-image="$IMAGES/x.sqsh" sh -c 'echo $PATH $COLOUR $WHERE'
    says "/opt:/bin blue $alice_home/x"
}

@test "writing, renaming and removing" {
    for image in "$IMAGES/x.sqsh" "$TRUSTED/x.sqsh"; do
        job --container-writable --container-image="$image" sh -c \
            'echo more >>/etc/os-release; mv /opt /moved; rm -r /root; touch /new; ls -d /moved /new; test ! -e /root'
        says "$(printf '/moved\n/new')"
        job --container-image="$image" sh -c 'touch /new 2>&1; ls -d /opt'
        out_has "Read-only file system"; out_has /opt
    done
}

@test "root inside" {
    job --container-remap-root --container-image="$IMAGES/x.sqsh" sh -c 'id -u; stat -c %u /bin/busybox /'
    says "$(printf '0\n0\n0')"
}

@test "an image whose files are not root's" {
    local dir
    dir=$(alice_dir owners)
    cp -a "$IMAGES/tree" "$dir/tree"
    echo "somebody:x:1:1::/:/bin/sh" >"$dir/tree/etc/passwd"
    mksquashfs "$dir/tree" "$dir/x.sqsh" -force-uid "$alice_uid" -quiet -no-progress >/dev/null
    job --container-image="$dir/x.sqsh" stat -c %u /bin/busybox
    rm -rf "$dir"
    # Unpacked files are the user's, whosever they were.
    if images_are_unpacked; then says "$alice_uid"; else fails "/etc/passwd" "mksquashfs -all-root"; fi
}

@test "many tasks share one reader" {
    run --separate-stderr as "$alice" timeout 300 srun --quiet -n4 --container-image="$IMAGES/x.sqsh" sh -c 'grep PRETTY /etc/os-release'
    ok
    [ "${#lines[@]}" = 4 ]
}

@test "a reader that is killed is named" {
    ! images_are_unpacked || skip "nobody reads an image that is unpacked"
    run --separate-stderr as "$alice" timeout 300 srun --quiet --container-image="$IMAGES/x.sqsh" \
        --container-mounts=/usr:/usr,/lib:/lib,/lib64:/lib64,/bin:/hostbin /hostbin/sh -c \
        '/usr/bin/pkill -9 -u $(/usr/bin/id -u) -x squashfuse_ll; /bin/sha256sum /bin/busybox'
    [ "$status" != 0 ]
    err_has "pyxis: squashfuse_ll, which read $IMAGES/x.sqsh for this step, was killed"
}

@test "a job that is cancelled leaves no reader" {
    ! images_are_unpacked || skip "nobody reads an image that is unpacked"
    # That of the test before may be ending.
    poll 20 "the readers before are gone" no_readers
    as "$alice" timeout 300 srun --quiet --job-name=filekill --container-image="$IMAGES/x.sqsh" sleep 1000 >/dev/null 2>&1 &
    local srun=$!
    poll 20 "the reader runs" readers
    scancel --name=filekill
    wait "$srun" || true
    poll 20 "the readers are gone" no_readers
}

@test "files that are no images" {
    local dir
    dir=$(alice_dir bad)
    mkfifo -m 0666 "$dir/fifo"
    : >"$dir/empty"
    head -c 3000 "$IMAGES/x.sqsh" >"$dir/cut"
    head -c 3000 /dev/urandom >"$dir/foreign"
    head -c 3000 /dev/urandom >"$dir/closed"
    chmod 0600 "$dir/closed"
    job --container-image=/no/such/file.sqsh true
    fails "/no/such/file.sqsh: No such file or directory"
    job --container-image="$dir/closed" true
    fails "$dir/closed: Permission denied"
    job --container-image=/dev/urandom true
    fails "/dev/urandom is a device"
    job --container-image="$dir" true
    fails "$dir is a directory"
    job --container-image="$dir/fifo" true
    fails "$dir/fifo is a FIFO"
    job --container-image="$dir/empty" true
    fails "$dir/empty: it is empty"
    job --container-image="$dir/cut" true
    fails "$dir/cut: it is truncated"
    job --container-image="$dir/foreign" true
    fails "$dir/foreign: it is neither a squashfs nor a SIF file"
}

@test "an image of the registry named like a file gets a hint" {
    cp "$IMAGES/x.sqsh" "$alice_home/hint.sqsh"
    job --container-image=hint.sqsh true
    rm "$alice_home/hint.sqsh"
    fails "did you mean ./hint.sqsh?"
}

@test "ENROOT_RESTRICT_DEV, whoever reads the file" {
    for image in "$IMAGES/x.sqsh" "$TRUSTED/x.sqsh"; do
        job ENROOT_RESTRICT_DEV=y --container-image="$image" \
            sh -c 'test -e /dev/loop-control || echo restricted; echo x >/dev/null; dd if=/dev/zero bs=1 count=2 2>/dev/null | cat -v; echo; ls -d /dev/shm /dev/pts; echo y >/dev/shm/y'
        says $'restricted\n^@^@\n/dev/pts\n/dev/shm'
    done
}
