# --container-mount-home and --no-container-mount-home.

setup() {
    load common
    mark=$alice_home/mark-$BATS_TEST_NUMBER
    install -o "$alice" -m 0600 /dev/null "$mark"
}
teardown() { rm -f "$mark"; }

@test "the home is not there by default, nor with the switch against it" {
    box test ! -e "$mark"
    ok
    box --no-container-mount-home test ! -e "$mark"
    ok
}

@test "the home at its own path, and HOME says so" {
    box --container-mount-home sh -c "test -O $mark && cd && pwd && echo \$HOME && echo new >$mark"
    says "$(printf '%s\n' "$alice_home" "$alice_home")"
    [ "$(cat "$mark")" = new ]
}

@test "the home at /root when remapped, and HOME says so" {
    box --container-mount-home --container-remap-root sh -c "test -O /root/$(basename "$mark") && cd && pwd && echo \$HOME"
    says "$(printf '/root\n/root')"
}

@test "HOME is the mounted home also when the job says otherwise" {
    box HOME=/elsewhere --container-mount-home sh -c 'echo $HOME'
    says "$alice_home"
}

@test "PYXIS_CONTAINER_MOUNT_HOME" {
    box PYXIS_CONTAINER_MOUNT_HOME=1 test -e "$mark"
    ok
    box PYXIS_CONTAINER_MOUNT_HOME=1 --no-container-mount-home test ! -e "$mark"
    ok
}

@test "a later mount may lie in the home" {
    box --container-mount-home --container-mounts="tmpfs:$alice_home/inner" sh -c "grep -c ' $alice_home/inner tmpfs' /proc/mounts"
    says 1
    rmdir "$alice_home/inner"
}

@test "both switches contradict each other" {
    box --container-mount-home --no-container-mount-home true
    fails "contradicts"
}
