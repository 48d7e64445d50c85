# packaging/slinky/Containerfile: what it makes of an image with Slurm. The image is of Debian's tree with Slurm, for who cannot reach
# Slinky's, and nothing is asked of Debian's mirror: the tree has what the package needs.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

setup() {
    root=$BATS_TEST_DIRNAME/../..
    storage=$(mktemp -d /var/tmp/pyxis-podman.XXXXXX)
}
teardown() {
    podman_ rmi --all --force >/dev/null 2>&1 || true
    rm -rf --one-file-system "$storage"
}
podman_() { podman --root "$storage/root" --runroot "$storage/run" --cgroup-manager=cgroupfs "$@"; }

@test "the package is in it, and all that it needs" {
    tar -C "$("$root/tests/cluster/slurm-root" trixie)" --exclude=./etc/apt/sources.list --exclude=./etc/apt/sources.list.d -c . |
        podman_ import --quiet - localhost/slurm
    "$root/packaging/build" "$BATS_TEST_TMPDIR" >/dev/null
    run podman_ build --isolation=chroot --build-arg BASE=localhost/slurm --tag localhost/slurm-pyxis \
        --file "$root/packaging/slinky/Containerfile" "$BATS_TEST_TMPDIR"
    [ "$status" = 0 ] || { echo "$output"; false; }
    # Not run by podman: crun wants one kind of control groups.
    tree=$(podman_ mount "$(podman_ create localhost/slurm-pyxis true)")
    run chroot "$tree" sh -ec '
        dpkg --verify pyxis
        id pyxis
        find /tmp -name "*.deb"
        echo ClusterName=pods >/etc/slurm/slurm.conf
        echo "include /usr/share/pyxis/*" >/etc/slurm/plugstack.conf
        { pyxis check --json || true; } | jq -r ".findings[] | select(.id | startswith(\"slurm.plug\")) | .id, .status"
        command -v squashfuse_ll'
    echo "$output"
    [ "$status" = 0 ]
    [[ ${lines[0]} == uid=*"(pyxis)"* ]]
    [ "${lines[*]:1}" = "slurm.plugstack ok slurm.plugin ok /usr/bin/squashfuse_ll" ]
}
