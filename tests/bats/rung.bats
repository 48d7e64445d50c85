# Kernels that cannot mount images themselves: slurmd runs as on Linux 6.1 (tests/cluster/up old-kernel), and images of registries
# are read by processes of the users. The other files of tests/run's list show that everything else is the same there.

setup() { load common; }

readers() { pgrep -u "$alice_uid" -x squashfuse_ll; }
no_readers() { ! readers; }

@test "an image of a registry is read by a process of the user, and the trace says why" {
    box PYXIS_TRACE=1 sh -c 'grep PRETTY /etc/os-release; stat -c %u /bin/busybox'
    says "$(printf 'PRETTY_NAME="Busybox in a container"\n%s' "$alice_uid")"
    err_has '"image_read_by":"squashfuse_ll: mount layer 1 of 1: this kernel cannot map the owners of a squashfs'
    poll 10 "the readers are gone" no_readers
}

@test "an image of 41 layers has 41 readers, which are gone with the step" {
    remember_host
    for number in 1 2; do
        job --container-image="$R#deep" --container-mounts=/usr:/usr,/lib:/lib,/lib64:/lib64 sh -c \
            'cat /deep/0 /deep/39; echo; /usr/bin/pgrep -cu $(id -u) -x squashfuse_ll'
        says "$(printf '039\n41')"
        poll 10 "the readers are gone" no_readers
    done
    as_before new-packs
}

@test "whiteouts, opaque directories and all kinds of files of an image" {
    job --container-writable --container-image="$R#shapes" sh -c \
        'ls /w /w/opaque /w/becomes-dir; cat /w/becomes-file /w/replaced; rm -r /w; mkdir /w; ls -A /w; mv /f /g; cat /g/one'
    ok
    out_lacks removed; out_lacks old; out_has inside; out_has above; out_has linked
}

@test "a reader that is killed is named, with its image" {
    run --separate-stderr as "$alice" timeout 90 srun --quiet --container-image="$R#busybox" \
        --container-mounts=/usr:/usr,/lib:/lib,/lib64:/lib64 /bin/sh -c \
        '/usr/bin/pkill -9 -u $(id -u) -x squashfuse_ll; /bin/sha256sum /bin/busybox'
    [ "$status" != 0 ]
    err_has "pyxis: squashfuse_ll, which read $R#busybox for this step, was killed"
}

@test "a pack stays closed to everybody but its reader" {
    box true
    ok
    [ "$(stat -c %a:%u "$store")" = 700:0 ]
    run --separate-stderr as "$alice" sh -c "cat $store/packs-1/*"
    dies "Permission denied"
}
