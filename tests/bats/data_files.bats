# --container-mounts=FILE:TARGET:squashfs: files with a file system in them as data, read as image files are.

setup_file() {
    load common
    export DATA=$BATS_FILE_TMPDIR TRUSTED=/var/lib/pyxis-test-data.$$
    chmod 0755 "$DATA" "$BATS_RUN_TMPDIR"
    mkdir -m 0755 "$TRUSTED" "$DATA/tree"
    echo hello >"$DATA/tree/file"
    mksquashfs "$DATA/tree" "$DATA/x.sqsh" -all-root -quiet -no-progress >/dev/null
    install -m 0644 "$DATA/x.sqsh" "$TRUSTED/x.sqsh"
}

setup() { load common; }

teardown_file() { rm -rf "$TRUSTED"; }

readers() { pgrep -u "$alice_uid" -x squashfuse_ll; }
no_readers() { ! readers; }

@test "a user's file is read by a process of his, and one of root's by the kernel" {
    cp "$DATA/x.sqsh" "$alice_home/mine.sqsh"
    box PYXIS_TRACE=1 --container-mounts="./mine.sqsh:/mine:squashfs+noexec,$TRUSTED/x.sqsh:/roots:squashfs" sh -c \
        'cat /mine/file /roots/file; stat -c %u /mine/file /roots/file; touch /mine/x /roots/x 2>&1 | grep -c Read-only'
    rm "$alice_home/mine.sqsh"
    says "$(printf 'hello\nhello\n%s\n%s\n2' "$alice_uid" "$alice_uid")"
    err_has '"data_read_by ./mine.sqsh":"squashfuse_ll: '
    err_has "\"data_read_by $TRUSTED/x.sqsh\":\"kernel: only root"
    err_has '"image_read_by":"kernel: the runtime wrote it"'
    poll 10 "the readers are gone" no_readers
}

@test "root inside, several tasks, a container with a name" {
    box --container-remap-root --container-mounts="$DATA/x.sqsh:/data:squashfs" stat -c %u /data/file
    says 0
    job -n3 --container-image="$R#busybox" --container-mounts="$DATA/x.sqsh:/data:squashfs" cat /data/file
    says "$(printf 'hello\nhello\nhello')"
    for again in 1 2; do
        box --container-name="data$$" --container-writable --container-mounts="$DATA/x.sqsh:/data:squashfs" \
            sh -c "cat /data/file; echo $again >/written"
        says hello
    done
    box --container-name="data$$" sh -c 'cat /written; ls /data'
    says 2
    rm -rf "/var/lib/pyxis-data/$alice_uid/pyxis_data$$"
}

@test "a file with data over an image that is a file" {
    job --container-image="$R#busybox" --container-save="$alice_home/image.sqsh" true
    ok
    job --container-image="$alice_home/image.sqsh" --container-mounts="$DATA/x.sqsh:/data:squashfs" cat /data/file
    rm "$alice_home/image.sqsh"
    says hello
    poll 10 "the readers are gone" no_readers
}

@test "a reader that is killed is named" {
    box --container-mounts="$DATA/x.sqsh:/data:squashfs,/usr:/usr,/lib:/lib,/lib64:/lib64" /bin/sh -c \
        '/usr/bin/pkill -9 -u $(/usr/bin/id -u) -x squashfuse_ll; cat /data/file'
    [ "$status" != 0 ]
    err_has "pyxis: squashfuse_ll, which read $DATA/x.sqsh for this step, was killed"
}

@test "files that hold no file system are errors, also in the options themselves" {
    box --container-mounts=/no/such.sqsh:/data:squashfs true
    fails "/no/such.sqsh: No such file or directory"
    box --container-mounts=/dev/zero:/data:squashfs true
    fails "/dev/zero is a device"
    box --container-mounts=/etc/passwd:/data:squashfs true
    fails "/etc/passwd: it is neither a squashfs nor a SIF file"
    box --container-mounts="$(printf '/no/such.sqsh:/%s:squashfs,' $(seq 32))/no/such.sqsh:/33:squashfs" true
    fails "more than 32 squashfs files are mounted: mount fewer"
    box --container-mounts="$DATA/x.sqsh:/data:squashfs+rw" true
    refused 'unknown flag "rw"'
    box --container-mounts=tmpfs:/data:squashfs true
    refused 'unknown flag "squashfs"'
    box --container-mounts="/no/such.sqsh:/data:squashfs+nofail" sh -c 'test -e /data || echo none'
    says none
    err_has "/no/such.sqsh: No such file or directory, ignoring"
}
