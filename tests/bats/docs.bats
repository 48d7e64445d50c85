# The commands on the pages are run as they stand there (tests/docs/examples.py).
# shellcheck disable=SC2034 # common.bash uses it

setup() {
    load common
    who=$alice work=$(alice_dir docs)
    # Users may have FUSE, as the pages want it.
    fuse_mode=$(stat -c %a /dev/fuse)
    chmod 0666 /dev/fuse
    mkdir -p /etc/cdi
    printf '%s\n' 'cdiVersion: 0.6.0' 'kind: example.com/thing' 'devices:' '- {name: one, containerEdits: {env: [THING=one]}}' \
        >/etc/cdi/pyxis-docs.yaml
}
teardown() {
    chmod "$fuse_mode" /dev/fuse
    rm -rf "${work:?}" "$alice_home/greeting" "/var/lib/pyxis-data/$alice_uid/pyxis_mine" /etc/cdi/pyxis-docs.yaml
    rmdir --ignore-fail-on-non-empty /etc/cdi
}

@test "each option, with an example" { commands docs/user/options.md; }

@test "running jobs" {
    as "$alice" sh -ec 'cd "$0"; skopeo copy -q --src-tls-verify=false "docker://$1/library/debian:12" oci:build:latest
        skopeo copy -q --src-tls-verify=false "docker://$1/busybox" docker-archive:saved.tar:some/name:1.2' "$work" "$R"
    commands docs/user/running.md
}

@test "containers without Slurm" { commands docs/user/commands.md; }

@test "the first job" { commands README.md; }

@test "what comes before and after a change to pyxis" {
    as "$alice" sh -ec 'cd "$0"; mkdir data; touch data/x; mksquashfs data data.sqsh -quiet -no-progress' "$work"
    model_file
    commands docs/migrating.md
}

@test "what the administrator runs" {
    who=root
    commands docs/admin/check.md root
}

@test "no command of a page is left out" {
    local languages
    # Where a prompt stands it is run: here, by gpu.bats, or by policy.bats.
    run sh -c 'cd "$1" && grep -rnE "^\\$ " README.md docs packaging --include=*.md | cut -d: -f1 | uniq | sort' sh "$root"
    [ "$output" = "$(printf '%s\n' README.md docs/admin/check.md docs/admin/tenants.md docs/user/{commands,gpus,options,running}.md)" ] ||
        { echo "$output"; false; }
    # Blocks are of languages that are run, or that are not of the shell; scripts are in migrating.md alone.
    run sh -c 'cd "$1" && grep -rhE "^\`\`\`[a-z]" README.md docs packaging --include=*.md | sort -u' sh "$root"
    languages=$(printf '```%s\n' bash console 'console '{gpu,root,tenants} json sh text toml yaml)
    [ "$output" = "$languages" ] || { echo "$output"; false; }
    run grep -rlxF '```bash' "$root/README.md" "$root/docs"
    [ "$output" = "$root/docs/migrating.md" ] || { echo "$output"; false; }
    # Others are run by what is named here.
    local command file text lines=0
    while IFS='|' read -r command file text; do
        grep -qF -- "$text" "$root/$file" || { echo "$file does not run: $command"; false; }
        lines=$((lines + 1))
        grep -rqE "^( {4})?$command( |$)" "$root/README.md" "$root/docs" || { echo "on no page: $command"; false; }
    done <<'TABLE'
make demo|tests/packages/demo.bats|make --no-print-directory -C "$root" demo
make test|.ci/run|make --no-print-directory test
make build|tests/cluster/demo|--no-print-directory build
make install|tests/cluster/demo|--no-print-directory install
ln -s /usr/share/pyxis/pyxis.conf /etc/slurm/plugstack.conf.d/|tests/cluster/demo|/usr/share/pyxis/pyxis.conf /etc/slurm/plugstack.conf.d/
srun --gres=gpu:1 --container-rocm|tests/bats/devices.bats|--container-rocm
cp /usr/share/pyxis-names/apparmor|tests/vm/apparmor.bats|cp /usr/share/pyxis-names/apparmor
apparmor_parser --replace|tests/vm/apparmor.bats|apparmor_parser --replace
srun --container-image=IMAGE|tests/bats/rootfs.bats|box
TABLE
    run sh -c 'cd "$1" && { sed -n "/^\`\`\`sh$/,/^\`\`\`$/p" README.md $(find docs -name "*.md") | grep -v "^\`"
        grep -rhE "^    [a-z]+ " docs/user docs/admin/install.md; } | wc -l' sh "$root"
    [ "$output" = "$lines" ] || { echo "$output commands, of which $lines are known"; false; }
}

@test "each option has an example" {
    local option
    for option in $(srun --help | grep -oE -- '--(no-)?container-[a-z-]+' | sort -u); do
        # Slurm's own.
        case $option in --container | --container-id | --container-type) continue ;; esac
        grep -q "^\$ .* $option\b" "$root/docs/user/options.md" || { echo "no example: $option"; false; }
    done
}

@test "options that pages name are there" {
    local known option
    known=$(srun --help | grep -oE -- '--(no-)?container-[a-z-]+')
    for option in $(grep -rohE --include=*.md -- '--(no-)?container-[a-z]+(-[a-z]+)*' "$root/README.md" "$root/docs" | sort -u); do
        grep -qxF -- "$option" <<<"$known" || { echo "no such option: $option"; false; }
    done
}

@test "the messages that the page of troubles names are those of the programs" {
    local message
    while read -r message; do
        case $message in
            # Slurm's own.
            unrecognized*) continue ;;
        esac
        grep -qrF -- "$message" "$root"/{runtime,plugin}/src "$root/packaging/deb" ||
            { echo "nobody says: $message"; false; }
    done < <(sed -n 's/^| `\([^`]*\)`.*/\1/p' "$root/docs/admin/troubleshooting.md")
}
