# Images and registries that are wrong: one line, exit code not zero, nothing left behind, the host untouched.

setup() {
    load common
    trap_dir=$test_state/trap
    rm -rf "$trap_dir"
    install -d -m 0777 "$trap_dir"
    echo kept >"$trap_dir/keep"
    chmod 0666 "$trap_dir/keep"
    remember_host
}

untouched() {
    [ "$(ls -A "$trap_dir")" = keep ]
    [ "$(cat "$trap_dir/keep")" = kept ]
    [ ! -e /escaped ]
    [ ! -e /tmp/evil ]
}

# broken IMAGE TEXT...: the import fails and says so.
broken() {
    local image=$1
    shift
    job --container-image="$image" echo ran
    fails "failed to import docker image: $image" "$@"
    untouched
    as_before new-packs
}

# harmless IMAGE COMMAND...: either refused in one line, or it runs; the host is as it was in both cases.
harmless() {
    job --container-image="$@"
    if [ "$status" != 0 ]; then fails; fi
    untouched
    as_before new-packs
}

@test "unknown image" {
    broken "$R#no/such/image" "has no"
}

@test "unknown tag" {
    broken "$R#busybox:no-such-tag" "has no"
}

@test "no such host" {
    broken "no-such-host.invalid:5000#busybox" no-such-host.invalid
}

@test "connection refused" {
    broken "127.0.0.1:1#busybox" "refused"
}

@test "internal error of the registry" {
    broken "$H#error-500/x" 500
}

@test "wrong architecture, in an index: it says what is there" {
    broken "$R#arm-only" arm64
}

@test "wrong architecture, in the config" {
    broken "$R#arm-single" arm64
}

@test "manifest that is not the one of its digest" {
    broken "$H/bad-manifest/x@sha256:$(printf '1%.0s' {1..64})" "does not match"
}

@test "manifest of an index that is not the one of its digest" {
    broken "$H#bad-child/x" "does not match"
}

@test "config that is not the one of its digest" {
    broken "$H#bad-config/x" "does not match"
}

@test "layer that is not the one of its digest" {
    broken "$H#bad-layer/x" "does not match"
}

@test "layer that is not the one of its diff id" {
    broken "$H#bad-diff-id/x" "diff id"
}

@test "fewer diff ids than layers" {
    broken "$H#few-diff-ids/x"
}

@test "layer that ends early" {
    broken "$H#cut-layer/x"
}

@test "layer smaller than its descriptor" {
    broken "$H#short-layer/x"
}

@test "layer larger than its descriptor" {
    broken "$H#long-layer/x"
}

@test "random bytes instead of a layer" {
    broken "$H#garbage-layer/x"
}

@test "random bytes behind gzip's magic" {
    broken "$H#garbage-after-magic/x"
}

@test "gzip stream without its end" {
    broken "$H#cut-gzip/x"
}

@test "gzip stream with a wrong checksum" {
    broken "$H#wrong-crc/x"
}

@test "zstd stream without its end" {
    broken "$H#cut-zstd/x"
}

@test "digest that is a path" {
    broken "$H#evil-digest/x" digest
}

@test "digest of an unknown kind" {
    broken "$H#unknown-digest/x" digest
}

@test "negative size" {
    broken "$H#negative-size/x"
}

@test "manifest without layers" {
    broken "$H#no-layers-field/x"
}

@test "manifest of schema version 1" {
    broken "$H#schema1/x"
}

@test "sign-in page instead of a manifest" {
    broken "$H#not-json/x"
}

@test "manifest of 80 MB" {
    broken "$H#huge-manifest/x"
}

@test "redirect without end" {
    broken "$H#redirect-loop/x"
}

@test "redirect to a file" {
    broken "$H#redirect-file/x"
}

@test "terminal codes and line breaks in the registry's message" {
    broken "$H#evil-message/x"
}

@test "registry that stalls before the manifest: told within the time limit" {
    job -p tiny --container-image="$H#stall-manifest/x" echo ran
    fails "failed to import docker image" "$H"
    as_before new-packs
}

@test "registry that stalls in a layer: told within the time limit" {
    job -p tiny --container-image="$H#stall-layer/x" echo ran
    fails "failed to import docker image" "$H"
    as_before new-packs
}

@test "tar: names that climb out" {
    broken "$R#tar-dotdot" ".."
    broken "$R#tar-dotdot-inside" ".."
}

@test "tar: absolute names stay below the root" {
    harmless "$R#tar-absolute" cat /absolute
    [ ! -e /absolute ]
}

@test "tar: file behind a symbolic link to the host" {
    harmless "$R#tar-symlink-then-file" sh -c 'cat /out/escaped; readlink /out'
}

@test "tar: hard links to what is not in the layer" {
    local name
    for name in up absolute symlink missing dir; do
        job --container-image="$R#tar-hardlink-$name" sh -c 'cat /stolen 2>/dev/null; ls /loop 2>/dev/null; echo ran'
        if [ "$status" != 0 ]; then fails; else says ran; fi
        untouched
    done
}

@test "tar: whiteouts through a symbolic link" {
    harmless "$R#tar-whiteout-symlink" ls /
    harmless "$R#tar-whiteout-dotdot" ls /
}

@test "tar: a name of 300 bytes" {
    broken "$R#tar-long-name" "name"
}

@test "tar: the last of several entries of one name counts" {
    job --container-image="$R#tar-duplicates" sh -c 'cat /dup /dup2 /dup3/x'
    says "secondnow a filex"
}

@test "tar: device nodes are not there" {
    job --container-image="$R#tar-devices" sh -c 'test -e /sda || test -e /mem || echo none'
    says none
}

@test "tar: set-id bits are gone" {
    job --container-image="$R#tar-setuid" stat -c %a /suid /sgid
    says "$(printf '755\n755')"
}

@test "tar: attributes that overlayfs would obey are gone" {
    job --container-image="$R#tar-overlay-xattr" cat /o
    says x
}

@test "tar: streams that end early or are none" {
    local name
    for name in bad-checksum cut-header cut-data huge-size; do broken "$R#tar-$name"; done
}

@test "tar: strange entries" {
    local name
    for name in empty-name unknown-type root-file nul-name; do harmless "$R#tar-$name" ls /; done
}

@test "image whose /dev, /proc, /sys, /etc, /tmp lead to the host" {
    local name
    for name in dev dev-up proc sys etc tmp passwd; do
        harmless "$R#trap-$name" sh -c 'echo written >/dev/pyxis-evil; echo written >/tmp/pyxis-evil; true'
        [ ! -e /tmp/pyxis-evil ]
        [ ! -e /dev/pyxis-evil ]
    done
}

@test "mount targets that are symbolic links to the host, to /proc, to themselves" {
    local target work
    work=$(alice_dir target)
    for target in /data /data/x /magic/x /loop /loop/x; do
        job --container-image="$R#trap-mount" --container-mounts="$work:$target" sh -c 'ls /data >/dev/null; true'
        if [ "$status" != 0 ]; then fails; fi
        untouched
    done
    rm -rf "$work"
    as_before new-packs
}

@test "full disk: told, and nothing is left" {
    local before
    before=$(srun --quiet -p tiny --chdir=/ find /var/lib/pyxis -type f -size +0)
    job -p tiny --container-image="$R#library/debian:12" echo ran
    fails "failed to import docker image" "free some space"
    [ "$(srun --quiet -p tiny --chdir=/ find /var/lib/pyxis -type f -size +0)" = "$before" ]
    as_before new-packs
}

@test "a bare name of a file that exists gives a hint" {
    local work
    work=$(alice_dir hint)
    touch "$work/x.sqsh"
    run --separate-stderr as "$alice" sh -c "cd '$work' && srun --quiet --container-image=x.sqsh echo ran"
    fails "did you mean ./x.sqsh?"
    rm -rf "$work"
}

@test "directories and archives that are wrong" {
    local images=$BATS_TEST_TMPDIR/images image
    chmod 0755 "$BATS_TEST_TMPDIR" "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR" "$(dirname "$BATS_TEST_TMPDIR")"
    mkdir -m 0755 "$images"
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$root/tests/local/images.py" "$images"
    for image in oci:{bad-layer,short-layer,shadow,deep,bad-diff-id} oci-archive:{bad-layer,shadow}.tar \
        docker-archive:docker-{cut.tar,cut.tar.gz,climbs.tar,shadow.tar,bad-layer.tar}; do
        broken "${image%%:*}:$images/bad/${image#*:}"
    done
}
