# --container-devices: devices that the node describes (Container Device Interface). The specifications are files of the
# node's own /etc/cdi and /var/run/cdi, with names that nobody else has.

setup() {
    load common
    work=$(alice_dir "devices-$BATS_TEST_NUMBER")
    mkdir -p /etc/cdi /var/run/cdi
    spec=/etc/cdi/pyxis-test.yaml
    kind=pyxis.test/thing
}
teardown() {
    rm -rf "${work:?}" /etc/cdi/pyxis-test* /var/run/cdi/pyxis-test*
    rmdir --ignore-fail-on-non-empty /etc/cdi /var/run/cdi
}

# describe FILE [DEVICE] <EDITS: a specification with one device.
describe() { { printf 'cdiVersion: 0.6.0\nkind: %s\ndevices:\n- name: %s\n  containerEdits:\n' "$kind" "${2-zero}"; cat; } >"$1"; }
nothing='    env: [NOTHING=1]'

@test "nodes, files, variables and links of a device, in a container that is read-only" {
    install -D -m 0644 /dev/stdin "$work/lib/libthing.so.1.0" <<<library
    describe "$spec" <<END
    deviceNodes:
    - {path: /dev/thing0, hostPath: /dev/urandom, type: c, major: 1, minor: 9, permissions: rw}
    mounts:
    - {hostPath: $work/lib/libthing.so.1.0, containerPath: /usr/lib/libthing.so.1.0, options: [ro, nosuid, nodev, bind]}
    env: [THING=zero, NVIDIA_VISIBLE_DEVICES=void]
    hooks:
    - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, create-symlinks, --link, 'libthing.so.1.0::/usr/lib/libthing.so', --link, '../thing0::/dev/by/thing']}
    - {hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, chmod, --mode, '755', --path, /dev/by]}
END
    show='stat -c "%t:%T" /dev/thing0; head -c1 /dev/thing0 | wc -c; cat /usr/lib/libthing.so; readlink /dev/by/thing; echo $THING'
    expected=$(printf '%s\n' 1:9 1 library ../thing0 zero)
    box ENROOT_RESTRICT_DEV=y --container-devices="$kind=zero" sh -c "$show"
    says "$expected"
    remember_host
    box ENROOT_RESTRICT_DEV=y PYXIS_CONTAINER_DEVICES="$kind=zero" --container-remap-root sh -c "$show"
    says "$expected"
    as_before
    # Without the option nothing of it is there.
    box ENROOT_RESTRICT_DEV=y sh -c 'ls /dev/thing0 /usr/lib/libthing.so; echo $THING'
    says ''
    # With the host's /dev no node can have a name that it does not have on the host.
    box --container-devices="$kind=zero" true
    fails "/dev/thing0" "container.restrict_dev"
    [ ! -e /dev/thing0 ] && [ ! -e /dev/by ]
}

@test "libraries of a device are found by the loader" {
    mkdir -p "$work/lib"
    # A library that the image does not have.
    cp -L /usr/lib/*/libmunge.so.2 "$work/lib/libmunge.so.2.9"
    chmod -R a+rX "$work/lib"
    describe "$spec" <<END
    mounts: [{hostPath: $work/lib/libmunge.so.2.9, containerPath: /opt/thing/libmunge.so.2.9, options: [ro, bind]}]
    hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache, --folder, /opt/thing]}]
END
    job --container-image="$R#library/debian:12" --container-devices="$kind=zero" sh -c '/sbin/ldconfig -p | grep munge; cat /opt/thing/libmunge.so.2 | wc -c'
    ok
    out_has "=> /opt/thing/libmunge.so.2"
    [ "${lines[-1]}" = "$(stat -c %s "$work/lib/libmunge.so.2.9")" ]
}

@test "AMD GPUs on a node without their driver are an error" {
    [ ! -e /dev/kfd ] || skip "this node has the driver"
    box --container-rocm true
    fails "--container-rocm: /dev/kfd does not exist on this node"
    box PYXIS_CONTAINER_ROCM=1 true
    fails "/dev/kfd does not exist"
}

@test "a batch script, and steps of several devices" {
    describe "$spec" <<<'    env: [ONE=1]'
    describe "/var/run/cdi/pyxis-test.yaml" other <<<'    env: [TWO=2]'
    box --container-devices="$kind=zero" --container-devices="$kind=other,$kind=zero" sh -c 'echo $ONE$TWO'
    says 12
    run --separate-stderr as "$alice" sbatch --quiet --wait -o "$work/out" --container-image="$R#busybox" \
        --container-devices="$kind=zero" --wrap 'echo $ONE'
    ok
    # What the import tells comes first.
    output=$(tail -n1 "$work/out")
    says 1
}

@test "what is no full name is refused by srun, what is not there by the node" {
    describe "$spec" <<<"$nothing"
    for name in zero thing=zero "$kind" "$kind=" "$kind=zero,," '../x=zero'; do
        job -H --container-image="$R#busybox" --container-devices="$name" true
        refused "--container-devices" "write vendor.com/class=name"
    done
    remember_host
    box --container-devices="$kind=zero,$kind=one" true
    fails "unknown device $kind=one: this node has $kind=zero"
    box --container-devices="other.test/thing=zero" true
    fails "unknown device other.test/thing=zero: this node has " "$kind=zero"
    as_before
}

@test "the user's rights decide about files, whatever a specification says" {
    describe "$spec" <<<'    mounts: [{hostPath: /etc/shadow, containerPath: /etc/passwd, options: [ro, bind]}]'
    remember_host
    for switch in --no-container-remap-root --container-remap-root; do
        box "$switch" --container-devices="$kind=zero" cat /etc/passwd
        fails "/etc/shadow" "Permission denied: uid $alice_uid may not use it"
    done
    describe "$spec" <<<"    mounts: [{hostPath: $work, containerPath: /../../../home, options: [bind]}]"
    box --container-devices="$kind=zero" true
    fails "unknown device $kind=zero" "$spec: path \"/../../../home\" is not absolute, or has \"..\" in it"
    as_before
}

@test "specifications that nobody should trust, or read to the end" {
    describe "$spec" <<<"$nothing"
    box --container-devices="$kind=zero" true
    ok
    chown "$alice" "$spec"
    box --container-devices="$kind=zero" true
    fails "unknown device $kind=zero" "$spec: others than root can write it"
    mv "$spec" "$work/spec"
    ln -s "$work/spec" "$spec"
    box --container-devices="$kind=zero" true
    fails "unknown device $kind=zero" "$spec: others than root can write it"
    rm "$spec"
    head -c 2000000 /dev/zero | tr '\0' x >"$spec"
    box --container-devices="$kind=zero" true
    fails "unknown device $kind=zero" "$spec: larger than 1048576 bytes"
    { echo 'a0: &a0 [x, x, x, x, x, x, x, x]'
      for n in $(seq 30); do echo "a$n: &a$n [*a$((n - 1)), *a$((n - 1)), *a$((n - 1)), *a$((n - 1)), *a$((n - 1)), *a$((n - 1))]"; done; } >"$spec"
    box --container-devices="$kind=zero" true
    fails "unknown device $kind=zero" "$spec" "when its aliases are written out"
    # Devices of other files are not lost for it; the user is told.
    describe /etc/cdi/pyxis-test-good.yaml good <<<"$nothing"
    box --container-devices="$kind=good" sh -c 'echo $NOTHING'
    says 1
    err_has "when its aliases are written out, ignoring"
}

@test "programs are not run" {
    rm -f /tmp/pyxis-test-hook
    describe "$spec" <<<'    hooks: [{hookName: createRuntime, path: /usr/bin/touch, args: [touch, /tmp/pyxis-test-hook]}]'
    box --container-devices="$kind=zero" true
    fails "$spec" "no program is run for a device: /usr/bin/touch /tmp/pyxis-test-hook" "devices.unneeded_hooks"
    [ ! -e /tmp/pyxis-test-hook ]
}
