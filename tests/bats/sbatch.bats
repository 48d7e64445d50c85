# sbatch and salloc.

setup() {
    load common
    work=$(alice_dir "sbatch-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$work"; }

# batch LINE...: a batch script of these lines, run to its end; its output becomes $output.
batch() {
    printf '%s\n' '#!/bin/sh' "$@" | install -o "$alice" -m 0755 /dev/stdin "$work/script"
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out script; code=\$?; cat out; exit \$code"
}

@test "#SBATCH --container-image runs the script in the container" {
    batch "#SBATCH --container-image=$R\\#busybox" 'grep PRETTY /etc/os-release; test -r "$0" && echo readable'
    [ "$status" = 0 ] || { echo "$output"; false; }
    [[ $output == *'Busybox in a container'* ]]
    [[ $output == *readable* ]]
}

@test "the spooled script is read-only inside" {
    batch "#SBATCH --container-image=$R\\#busybox" 'echo x >>"$0" || echo refused'
    [[ $output == *refused* ]]
}

@test "sbatch without a container, srun with one" {
    batch "srun --quiet --container-image=$R#busybox grep PRETTY /etc/os-release" 'test -e /bin/busybox && grep -c Busybox /etc/os-release'
    [[ $output == *'Busybox in a container'* ]] || { echo "$output"; false; }
    [[ $output == *0* ]]
}

@test "the image that sbatch was given is not inherited by the sruns inside" {
    local plugin
    read -r _ plugin _ <"$test_state/plugstack.conf"
    batch "#SBATCH --container-image=$R\\#library/debian:12" \
        "#SBATCH --container-mounts=/usr/bin/srun,/usr/lib,$SLURM_CONF,/run/munge,$test_state/plugstack.conf,$plugin" \
        'srun --quiet grep PRETTY /etc/os-release' 'echo end'
    [[ $output == *end* ]] || { echo "$output"; false; }
    [[ $output != *'in a container'* ]] || { echo "$output"; false; }
}

@test "salloc, then srun with a container" {
    run --separate-stderr as "$alice" salloc --quiet -n2 srun --quiet --container-image="$R#busybox" grep PRETTY /etc/os-release
    says "$(printf 'PRETTY_NAME="Busybox in a container"\nPRETTY_NAME="Busybox in a container"')"
}

@test "sbatch refuses bad options before there is a job" {
    run as "$alice" sbatch --container-image="$R#busybox" --container-mounts=relative:no:good --wrap=true
    [ "$status" != 0 ]
    [[ $output == *"error: pyxis: "*"--container-mounts"* ]] || { echo "$output"; false; }
    [[ $output != *Submitted* ]] || { echo "$output"; false; }
}

@test "sbatch --wrap, arguments of a script, a script on standard input" {
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out --container-image='$R#busybox' --wrap='grep PRETTY /etc/os-release'; cat out"
    [[ $output == *'Busybox in a container'* ]] || { echo "$output"; false; }
    printf '%s\n' '#!/bin/sh' 'echo "$# $1 $2"; grep -c Busybox /etc/os-release' | install -o "$alice" -m 0755 /dev/stdin "$work/script"
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out --container-image='$R#busybox' script 'two words' second; cat out"
    [[ $output == *$'2 two words second\n1' ]] || { echo "$output"; false; }
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out --container-image='$R#busybox' <script; cat out"
    [[ $output == *$'0  \n1' ]] || { echo "$output"; false; }
}

@test "an interpreter that only the container has" {
    printf '%s\n' '#!/opt/bin/only-here' | install -o "$alice" -m 0755 /dev/stdin "$work/script"
    # The image's program is a script itself, and so is what this one names: the kernel follows both.
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out --container-image='$R#rich' script; cat out"
    [[ $output == *'from the image'* ]] || { echo "$output"; false; }
}

@test "the exit code of a script in a container, and what sbatch makes of a signal" {
    local end bare
    for end in 'exit 42' 'kill -9 $$'; do
        batch "$end"
        bare=$status
        batch "#SBATCH --container-image=$R\\#busybox" "$end"
        [ "$status" = "$bare" ]
        [ "$end" != 'exit 42' ] || [ "$status" = 42 ]
    done
}

@test "all container options in #SBATCH lines" {
    mkdir "$work/data"
    echo data >"$work/data/file"
    batch "#SBATCH --container-image=$R\\#rich" "#SBATCH --container-mounts=./data:/mnt:ro" "#SBATCH --container-workdir=/mnt" \
        "#SBATCH --container-remap-root" "#SBATCH --container-writable" "#SBATCH --container-env=SHARED" "#SBATCH --export=ALL,SHARED=mine" \
        'pwd; cat file; id -u; echo x >/written && echo "$SHARED"; echo x >file || echo read-only'
    [[ $output == *$'/mnt\ndata\n0\nmine\n'*read-only ]] || { echo "$output"; false; }
}

@test "variables choose the container of the script, and are inherited; options are not" {
    local plugin
    read -r _ plugin _ <"$test_state/plugstack.conf"
    printf '%s\n' '#!/bin/sh' 'grep PRETTY /etc/os-release; env | grep -c "^SLURM_SPANK_.*pyxis"; echo "image: $PYXIS_CONTAINER_IMAGE"' |
        install -o "$alice" -m 0755 /dev/stdin "$work/script"
    run as "$alice" "PYXIS_CONTAINER_IMAGE=$R#busybox" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out script; cat out"
    [[ $output == *$'Busybox in a container"\n0\nimage: '"$R#busybox" ]] || { echo "$output"; false; }
    # On the command line: a step inside that asks for nothing gets nothing.
    printf '%s\n' '#!/bin/sh' 'env | grep -c "^SLURM_SPANK_.*pyxis"; echo "image: $PYXIS_CONTAINER_IMAGE"' |
        install -o "$alice" -m 0755 /dev/stdin "$work/script"
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out --container-image='$R#busybox' script; cat out"
    [[ $output == *$'0\nimage: ' ]] || { echo "$output"; false; }
}

@test "variables of an ordinary script choose the containers of its steps" {
    batch "export PYXIS_CONTAINER_IMAGE=$R#busybox PYXIS_CONTAINER_WORKDIR=/usr" 'srun --quiet sh -c "pwd; grep PRETTY /etc/os-release"' \
        'srun --quiet --container-workdir=/bin pwd'
    [[ $output == */usr$'\nPRETTY_NAME="Busybox in a container"\n'*/bin ]] || { echo "$output"; false; }
}

@test "salloc's options are its steps' defaults, which srun's own take the place of" {
    run --separate-stderr as "$alice" salloc --quiet --container-image="$R#busybox" --container-workdir=/usr sh -c "
        grep -c Busybox /etc/os-release
        srun --quiet sh -c 'pwd; grep -h PRETTY /etc/os-release'
        srun --quiet --container-image='$R#rich' --container-workdir=/opt sh -c 'pwd; only-here'"
    [ "$output" = "$(printf '0\n/usr\nPRETTY_NAME="Busybox in a container"\n/opt\nfrom the image')" ] || { show; false; }
}

@test "an import that fails fails the job" {
    batch "#SBATCH --container-image=$R\\#no/such/image" 'echo ran'
    [ "$status" != 0 ]
    [[ $output != *ran* ]] || { echo "$output"; false; }
    [ "$(grep -c "failed to import docker image: $R#no/such/image" <<<"$output")" = 1 ] || { echo "$output"; false; }
}

@test "sbatch_support=0: sbatch and salloc have no container options, srun keeps them" {
    local plugin
    read -r _ plugin _ <"$test_state/plugstack.conf"
    echo "required $plugin sbatch_support=0" >"$work/plugstack.conf"
    sed "s,^PlugStackConfig=.*,PlugStackConfig=$work/plugstack.conf," "$SLURM_CONF" >"$work/slurm.conf"
    run as "$alice" "SLURM_CONF=$work/slurm.conf" sbatch --container-image="$R#busybox" --wrap=true
    [ "$status" != 0 ]
    [[ $output == *"unrecognized option '--container-image="* ]] || { echo "$output"; false; }
    run as "$alice" "SLURM_CONF=$work/slurm.conf" salloc --container-image="$R#busybox" true
    [[ $output == *"unrecognized option '--container-image="* ]] || { echo "$output"; false; }
    run --separate-stderr as "$alice" "SLURM_CONF=$work/slurm.conf" salloc --quiet srun --quiet --container-image="$R#busybox" grep PRETTY /etc/os-release
    says 'PRETTY_NAME="Busybox in a container"'
}
