# --container-workdir

setup() { load common; }

@test "the image's, else the root" {
    box pwd
    says /
    job --container-image="$R#rich" pwd
    says /opt/work
}

@test "the option's" {
    job --container-image="$R#rich" --container-workdir=/etc pwd
    says /etc
    job PYXIS_CONTAINER_WORKDIR=/etc --container-image="$R#rich" pwd
    says /etc
}

@test "one that a mount brings" {
    local work
    work=$(alice_dir workdir)
    box --container-mounts="$work:/here" --container-workdir=/here pwd
    says /here
    rm -rf "$work"
}

@test "a missing one" {
    box --container-workdir=/no/such echo ran
    fails "/no/such: No such file or directory"
}

@test "a file" {
    box --container-workdir=/etc/passwd echo ran
    fails "/etc/passwd: Not a directory"
}

@test "one that the user may not enter, with whatever right a task has while it enters its container" {
    local work
    work=$(alice_dir workdir)
    install -d -m 0 -o "$alice" "$work/closed"
    box --container-mounts="$work:/here" --container-workdir=/here/closed echo ran
    rm -rf "$work"
    fails "/here/closed: Permission denied"
}

@test "root inside is in a directory of its own" {
    box --container-remap-root --container-workdir=/root pwd
    says /root
}

@test ".. does not leave the root file system" {
    box --container-workdir=/../../../.. sh -c 'pwd; grep PRETTY /etc/os-release; ls'
    ok; out_has "Busybox in a container"; [ "${lines[0]}" = / ]
    job --container-image="$R#trap-workdir" sh -c 'pwd; cat /etc/os-release'
    [ "$status" != 0 ] || out_has "Busybox in a container"
}
