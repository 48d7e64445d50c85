# --container-image=podman:// and dockerd://: Debian's podman, as a user; in place of docker, whose daemon cannot run beside other
# tests, a program that writes an archive as docker does. The node tiny looks for it in a directory of the test's.

setup_file() {
    load common
    export IMAGES=$BATS_FILE_TMPDIR/images CLIENTS=$test_state/clients
    chmod 0755 "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR"
    mkdir -m 0755 "$IMAGES"
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$root/tests/local/images.py" "$IMAGES"
    rm -rf "$CLIENTS"
    mkdir -m 0755 "$CLIENTS"
    cp "$test_state/tiny.toml" "$BATS_FILE_TMPDIR/tiny.toml"
    printf '[images]\nclient_path = "%s"\n' "$CLIENTS" >>"$test_state/tiny.toml"
}

teardown_file() {
    load common
    # The file is mounted: it is written and not replaced.
    cat "$BATS_FILE_TMPDIR/tiny.toml" >"$test_state/tiny.toml"
    rm -rf "$CLIENTS"
}

setup() { load common; }

# docker SCRIPT: what stands in for it.
docker() {
    printf '#!/bin/bash\n%s\n' "$1" >"$CLIENTS/docker"
    chmod 0755 "$CLIENTS/docker"
}
clients() { pgrep -u "$alice" -fx 'sleep 1987'; }
no_clients() { ! clients; }

@test "an image of the user's podman" {
    local work
    command -v podman && command -v newuidmap
    work=$(alice_dir podman)
    mkdir -p "$work/tree/bin"
    cp /bin/busybox "$work/tree/bin/busybox"
    ln -s busybox "$work/tree/bin/cat"
    echo "from podman" >"$work/tree/image"
    tar -C "$work/tree" --owner=0 --group=0 -cf "$work/tree.tar" .
    chown -R "$alice:" "$work"
    # On a machine without an init system nobody made the user's runtime directory; podman finds another place.
    run as "$alice" podman import --change 'ENV COLOUR=blue' "$work/tree.tar" localhost/pod:1
    ok
    # A job has no process of podman's that holds its user namespace.
    pkill -KILL -u "$alice" -x podman || true
    job --container-image=podman://localhost/pod:1 /bin/cat /image
    says "from podman"
    job PYXIS_TRACE=1 --container-image=podman://localhost/pod:1 /bin/busybox sh -c 'echo $COLOUR'
    says blue
    err_has '"downloaded_layers":0'
    job --container-image=podman://localhost/no-such true
    fails "failed to import docker image: podman://localhost/no-such" "podman save ended with exit code"
    pkill -KILL -u "$alice" -x podman || true
    # Files of other ids of his are in it: only his user namespace can remove them.
    as "$alice" podman system reset --force
    pkill -KILL -u "$alice" -x podman || true
}

@test "an image of docker's: run as the user, with his variables, in his job" {
    docker "[ \"\$*\" = 'save x/plain:2' ] && [ \$(id -un) = $alice ] && [ \$COLOUR = red ] || exit 9
        exec cat $IMAGES/docker.tar"
    job COLOUR=red -p tiny --container-image=dockerd://x/plain:2 cat /image
    says plain
}

@test "it has no capability and no descriptor of the runtime's" {
    docker "grep -qx 'CapEff:.0*' /proc/self/status && grep -qx 'CapPrm:.0*' /proc/self/status && grep -qx 'CapInh:.0*' /proc/self/status || exit 8
        for fd in /proc/\$\$/fd/*; do case \$(readlink \$fd) in pipe:*|/dev/null|/proc/*|$CLIENTS/docker|'') ;; *) readlink \$fd >&2; exit 7 ;; esac; done
        exec cat $IMAGES/docker.tar"
    job -p tiny --container-image=dockerd://plain:1 cat /image
    says plain
}

@test "several images in what it saves: the one that was named" {
    docker "exec cat $IMAGES/docker-two.tar"
    job -p tiny --container-image=dockerd://other:1 cat /image
    says other
    job -p tiny --container-image=dockerd://third true
    fails "no such image, only docker.io/library/other:1, plain:1"
}

@test "its failure is shown in its words, and a client that is not there" {
    docker 'echo noise >&2; echo "Cannot connect to the Docker daemon at unix:///var/run/docker.sock." >&2; exit 1'
    job -p tiny --container-image=dockerd://plain:1 true
    fails "failed to import docker image: dockerd://plain:1" "$CLIENTS/docker save ended with exit code 1" "Cannot connect to the Docker daemon"
    docker "head -c 50000 $IMAGES/docker.tar; kill -9 \$\$"
    job -p tiny --container-image=dockerd://plain:1 true
    fails "signal 9"
    job -p tiny --container-image=podman://x true
    fails "there is no podman on this node" "images.client_path"
    chmod 0777 "$CLIENTS/docker"
    job -p tiny --container-image=dockerd://plain:1 true
    fails "must belong to root"
}

@test "a client that hangs is named, and ended with its job" {
    docker 'exec sleep 1987'
    as "$alice" timeout 60 srun --quiet -p tiny --job-name=client --container-image=dockerd://plain:1 true \
        >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
    local srun=$!
    poll 30 "it is named" grep -q "waiting for docker to save plain:1" "$BATS_TEST_TMPDIR/out"
    clients
    scancel --name=client
    wait "$srun" || true
    poll 20 "it has ended" no_clients
}

@test "an archive that the node has no room for" {
    docker "exec cat $IMAGES/docker.tar /dev/zero"
    job -p tiny --container-image=dockerd://plain:1 true
    fails "failed to import docker image: dockerd://plain:1" "full"
}
