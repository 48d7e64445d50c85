# slurmd in a pod that is not privileged (tests/slinky/pod): what packaging/slinky/values.yaml says is enough, and not too much.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

setup() {
    root=$BATS_TEST_DIRNAME/../..
    # What Kubernetes gives to each container.
    default=CHOWN,DAC_OVERRIDE,FOWNER,FSETID,KILL,SETGID,SETUID,SETPCAP,NET_BIND_SERVICE,NET_RAW,SYS_CHROOT,MKNOD,AUDIT_WRITE,SETFCAP
    # What the values add.
    mapfile -t added < <(sed -n '/^          add:/,/^      [^ ]/s/^            - //p' "$root/packaging/slinky/values.yaml")
}

# runs CAPABILITIES DEVICES: a job with a container, in such a pod.
runs() {
    run --separate-stderr "$root/tests/slinky/pod" "$1" "$2" "$root/tests/slinky/node" check
    [ "$status" = 0 ] && [[ $output == *$'\nwritten' ]]
}
shows() { printf -- '-- status %s --\n%s\n-- stderr --\n%s\n' "$status" "$output" "$stderr"; }
reads() { [[ $output == *"images.registry $1"* ]] || { shows; return 1; }; }

list() { local IFS=,; echo "$*"; }

@test "with what the values add, and loop devices: images are mounted by the kernel" {
    runs "$default,$(list "${added[@]}")" loop,fuse || { shows; false; }
    reads "ok the kernel mounts them"
}

@test "with FUSE alone, squashfuse reads them" {
    runs "$default,$(list "${added[@]}")" fuse || { shows; false; }
    reads "warn squashfuse_ll reads them"
}

@test "with neither, they are unpacked" {
    runs "$default,$(list "${added[@]}")" "" || { shows; false; }
    reads "warn they are unpacked"
}

@test "without any one of what the values add, no container starts" {
    local capability other
    [ "${#added[@]}" -gt 0 ]
    for capability in "${added[@]}"; do
        other=$(list "${added[@]}")
        other=${other/$capability/}
        ! runs "$default,$other" loop,fuse || { echo "$capability is not needed"; return 1; }
        [[ $output == *"images.registry fail"* ]] || { shows; return 1; }
    done
}
