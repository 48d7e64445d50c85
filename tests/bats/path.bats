# The command is looked up in the container's PATH, never in the host's.

setup() { load common; }

@test "a command that only the container has" {
    job --container-image="$R#rich" only-here
    says "from the image"
}

@test "a command that only the host has" {
    local name
    for name in python3 perl scontrol; do
        command -v $name
        box $name --version
        [ "$status" != 0 ]
        [ "$output" = "" ]
        err_has "No such file or directory"
    done
}

@test "a program of the same name in the job's own PATH" {
    local work
    work=$(alice_dir path)
    printf '#!/bin/sh\necho from the host\n' | install -o "$alice" -m 0755 /dev/stdin "$work/only-here"
    job PATH="$work:/usr/bin:/bin" --container-image="$R#rich" only-here
    says "from the image"
    job PATH="$work:/usr/bin:/bin" --container-image="$R#rich" --container-mounts="$work:/w" --container-env=PATH env
    ok
    rm -rf "$work"
}

@test "absolute and relative commands are the container's" {
    job --container-image="$R#rich" /opt/bin/only-here
    says "from the image"
    job --container-image="$R#rich" --container-workdir=/opt ./bin/only-here
    says "from the image"
}

@test "a script from a mount" {
    local work
    work=$(alice_dir script)
    printf '#!/bin/sh\ngrep PRETTY /etc/os-release\n' | install -o "$alice" -m 0755 /dev/stdin "$work/run"
    box --container-mounts="$work" "$work/run"
    says 'PRETTY_NAME="Busybox in a container"'
    rm -rf "$work"
}
