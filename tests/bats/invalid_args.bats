# Bad option values: one line, exit code not zero, and no job was started.

setup() { load common; }

bad() { box "$@" echo ran; }

@test "empty arguments" {
    local option
    for option in image mounts workdir name save env unshare; do
        job --container-$option= echo ran
        refused "--container-$option"
    done
}

@test "an image twice: the same is fine, another is not" {
    box --container-image="$R#busybox" true
    ok
    box --container-image="$R#rich" echo ran
    refused "specified multiple times"
}

@test "a second workdir that differs" {
    box --container-workdir=/tmp --container-workdir=/tmp pwd
    says /tmp
    bad --container-workdir=/tmp --container-workdir=/etc
    refused "specified multiple times"
}

@test "malformed image references" {
    local name
    for name in "$R#" "$R#UPPER" "$R#a//b" "$R#a:" "$R#a:bad tag" "$R#a@sha256:123" "$R#a@md5:$(printf '0%.0s' {1..32})" \
        "$R#../a" "ftp://$R/a" "#a" "docker://" "docker://$R#"; do
        job --container-image="$name" echo ran
        refused
    done
}

@test "mounts: a word that is no source, a target that is no path, unknown flags, empty entries" {
    local value
    for value in devpts:/dev/pts "/tmp:relative" "/tmp:/a:nonsense" "/tmp:/a:ro:rw" "/tmp:/a:x-create=socket" ":/a" "/tmp::" "," \
        "/tmp,,/var" "tmpfs" "umount"; do
        bad --container-mounts="$value"
        refused "--container-mounts" || { echo "value: $value"; false; }
    done
}

@test "env: empty entries and what is no name" {
    local value
    for value in , A, ,A A,,B; do
        bad --container-env="$value"
        refused "--container-env" || { echo "value: $value"; false; }
    done
}

@test "unshare: an unknown word" {
    bad --container-unshare=net,moon
    refused "unknown namespace"
}

@test "contradicting switches" {
    bad --container-writable --container-readonly
    refused writable readonly
    bad --container-remap-root --no-container-remap-root
    refused remap-root
    bad --container-mount-home --no-container-mount-home
    refused mount-home
    bad --container-entrypoint --no-container-entrypoint
    refused entrypoint
}

@test "the same switch twice is fine" {
    box --container-writable --container-writable touch /x
    ok
}

@test "names: a slash, too long, an unknown mode, a trailing slash in save" {
    bad --container-name=a/b
    refused "--container-name"
    bad --container-name="$(printf 'n%.0s' {1..300})"
    refused "--container-name"
    bad --container-name=a:sometimes
    refused "--container-name"
    bad --container-save=/tmp/
    refused "--container-save"
}

@test "environment variables are checked like options" {
    job PYXIS_CONTAINER_MOUNTS=devpts:/x --container-image="$R#busybox" echo ran
    fails PYXIS_CONTAINER_MOUNTS
    job PYXIS_CONTAINER_UNSHARE=moon --container-image="$R#busybox" echo ran
    fails "unknown namespace"
    job PYXIS_CONTAINER_REMAP_ROOT=perhaps --container-image="$R#busybox" echo ran
    fails PYXIS_CONTAINER_REMAP_ROOT
}

@test "options without an image and without a name are ignored with a warning" {
    run --separate-stderr as "$alice" srun --container-mounts=/tmp:/x readlink /proc/self/ns/mnt
    says "$(readlink /proc/self/ns/mnt)"
    err_has "ignoring --container-mounts because neither --container-image nor --container-name is set"
    run --separate-stderr as "$alice" srun --container-writable --container-workdir=/x readlink /proc/self/ns/mnt
    ok
    err_has "ignoring --container-writable because neither --container-image nor --container-name is set"
    err_has "ignoring --container-workdir because neither --container-image nor --container-name is set"
    local option
    for option in save=/tmp/x mount-home remap-root entrypoint entrypoint-log readonly env=A unshare=net; do
        run --separate-stderr as "$alice" srun --container-$option readlink /proc/self/ns/mnt
        says "$(readlink /proc/self/ns/mnt)"
        [ "$(grep pyxis <<<"$stderr")" = \
            "pyxis: ignoring --container-${option%%=*} because neither --container-image nor --container-name is set" ] || { show; false; }
    done
}

@test "a mistake in plugstack.conf is named, and keeps srun from starting anything" {
    local dir plugin words
    dir=$(alice_dir plugstack)
    read -r _ plugin _ <"$test_state/plugstack.conf"
    sed "s,^PlugStackConfig=.*,PlugStackConfig=$dir/plugstack.conf," "$SLURM_CONF" >"$dir/slurm.conf"
    echo "required $plugin colour=red" >"$dir/plugstack.conf"
    box SLURM_CONF="$dir/slurm.conf" echo ran
    refused 'plugstack.conf: unknown key "colour"'
    echo "required $plugin use_enroot_load=1 use_squashfuse=1 execute_entrypoint=0 runtime_path=/run/pyxis" >"$dir/plugstack.conf"
    box SLURM_CONF="$dir/slurm.conf" echo ran
    says ran
    rm -rf "$dir"
}

@test "help lists every option, in srun, sbatch and salloc" {
    local tool option
    for tool in srun sbatch salloc; do
        run as "$alice" $tool --help
        for option in image mounts workdir name save mount-home remap-root entrypoint entrypoint-log writable readonly env unshare; do
            [[ $output == *"--container-$option"* ]] || { echo "$tool lacks --container-$option"; false; }
        done
    done
}
