# The examples in the user's pages are run as they stand there (tests/docs/examples.py).

setup() {
    load common
    work=$(alice_dir docs)
    mkdir -p /etc/cdi
    printf '%s\n' 'cdiVersion: 0.6.0' 'kind: example.com/thing' 'devices:' '- {name: one, containerEdits: {env: [THING=one]}}' \
        >/etc/cdi/pyxis-docs.yaml
}
teardown() {
    rm -rf "${work:?}" "$alice_home/greeting" "/var/lib/pyxis-data/$alice_uid/pyxis_mine" /etc/cdi/pyxis-docs.yaml
    rmdir --ignore-fail-on-non-empty /etc/cdi
}

# examples PAGE
examples() {
    install -d -m 0700 -o "$alice" "$work/.data" "$work/.run"
    run as "$alice" XDG_DATA_HOME="$work/.data" XDG_RUNTIME_DIR="$work/.run" IMAGE_debian="$R#library/debian:12" IMAGE_app="$R#rich" IMAGE_none="$R#no-such-image" \
        sh -c 'cd "$0" && exec "$@"' "$work" "$root/tests/docs/examples.py" "$root/docs/$1"
    [ "$status" = 0 ] || { echo "$output"; return 1; }
}

@test "each option, with an example" { examples user/options.md; }

@test "running jobs" { examples user/running.md; }

@test "containers without Slurm" { examples user/commands.md; }

@test "the first job" { examples ../README.md; }

@test "commands are examples that are run, or said to be for reading" {
    # A prompt stands only where examples.py looks for it.
    run sh -c 'cd "$1" && grep -rlE "^\\$ " README.md docs --include=*.md | sort' sh "$root"
    [ "$output" = "$(printf '%s\n' README.md docs/user/commands.md docs/user/options.md docs/user/running.md)" ] || { echo "$output"; false; }
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
