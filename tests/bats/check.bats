# pyxis check: as root and as a user, on a node as it is and with things that are wrong.

setup() {
    load common
    dir=$(alice_dir "check-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$dir"; }

# check ARGUMENTS...: by root.
check() { run --separate-stderr timeout 90 pyxis check "$@"; }
# finding ID FILTER: of the JSON in output.
finding() { jq -r --arg id "$1" ".findings[] | select(.id == \$id) | $2" <<<"$output"; }

@test "a node of the cluster: containers will start, and nothing is left behind" {
    remember_host
    check
    ok
    out_has "ok    images of registries:"
    [[ ${lines[-1]} == "containers will start"* ]] || { show; return 1; }
    [ -z "$stderr" ]
    [ "$(grep -cvE '^(ok  |warn|fail|skip)  [^:]+: +[^ ]' <<<"$output")" = 2 ] # an empty line and the verdict
    as_before
}

@test "the JSON has the documented shape" {
    check --json
    ok
    jq -e '.version == 1 and .will_start and (.findings | length > 30)' <<<"$output"
    jq -e 'all(.findings[]; (keys == ["advice", "fact", "id", "status", "what"])
        and (.status | IN("ok", "warn", "fail", "skip"))
        and (if (.status | IN("warn", "fail")) then (.advice | type) == "string" else .advice == null end))' <<<"$output"
    # Every id is in the manual.
    for id in $(jq -r '.findings[].id' <<<"$output"); do
        grep -qF "\`$id\`" "$root/docs/admin/check.md" || { echo "not in docs/admin/check.md: $id"; return 1; }
    done
}

@test "Slurm: version, plugin and plugstack.conf" {
    check --json
    ok
    [[ $(finding slurm.version .fact) == *"$(slurmd -V)"* ]]
    [[ $(finding slurm.plugin .fact) == *spank_pyxis.so ]]
    [[ $(finding slurm.plugstack .fact) == "$test_state/plugstack.conf, line 1 names "* ]]
}

@test "a plugin that is not loaded, is NVIDIA's, or is loaded twice" {
    local plugin
    plugin=$(sed 's/required \([^ ]*\).*/\1/' "$test_state/plugstack.conf")
    sed "s|^PlugStackConfig=.*|PlugStackConfig=$dir/plugstack.conf|" "$SLURM_CONF" >"$dir/slurm.conf"
    SLURM_CONF=$dir/slurm.conf check
    [ "$status" = 1 ]
    out_has "$dir/plugstack.conf does not exist; add \"include /usr/share/pyxis/*\" to it"
    mkdir "$dir/more"
    echo "include more/*" >"$dir/plugstack.conf"
    echo "required $plugin" >"$dir/more/one"
    SLURM_CONF=$dir/slurm.conf check
    ok
    out_has "$dir/more/one, line 1 names $plugin"
    cp /bin/true "$dir/spank_pyxis.so"
    printf '# NVIDIA\nrequired %s\n' "$dir/spank_pyxis.so" >"$dir/more/one"
    SLURM_CONF=$dir/slurm.conf check
    [ "$status" = 1 ]
    out_has "$dir/spank_pyxis.so is another plugin of this name; NVIDIA's pyxis has it"
    echo "required $plugin" >"$dir/more/zero"
    SLURM_CONF=$dir/slurm.conf check
    [ "$status" = 1 ]
    out_has "the options would be there twice"
}

@test "as a user: what only root can see is said, and nothing is made" {
    remember_host
    run --separate-stderr as "$alice" XDG_DATA_HOME="$dir/data" timeout 90 pyxis check
    ok
    out_has "skip  images of registries:"
    out_has "nothing was found that keeps containers from starting"
    out_has "$dir/data/pyxis does not exist yet"
    [ ! -e "$dir/data" ]
    as_before
}

@test "settings that are wrong are named with file and line" {
    printf '[store]\npath = "/x"\ncolour = 1\n' >"$dir/pyxis.toml"
    check --config "$dir/pyxis.toml"
    [ "$status" = 1 ]
    out_has "fail  settings:"
    out_has "$dir/pyxis.toml, line 3: unknown field \`colour\`"
    [[ ${lines[-1]} == "containers will not start: 1 thing to mend"* ]] || { show; return 1; }
    check --json --config "$dir/pyxis.toml"
    [ "$status" = 1 ]
    [ "$(jq .will_start <<<"$output")" = false ]
}

@test "a worker of another build and a store that is not root's" {
    cp /usr/libexec/pyxis/worker "$dir/worker"
    echo >>"$dir/worker"
    printf '[worker]\npath = "%s"\n' "$dir/worker" >"$dir/pyxis.toml"
    mkdir "$dir/store"
    chown "$alice" "$dir/store"
    check --json --config "$dir/pyxis.toml" --store "$dir/store"
    [ "$status" = 1 ]
    [ "$(finding worker.program .status)" = warn ]
    [[ $(finding store.directory .fact) == *"it must belong to uid 0 with mode 0700" ]]
    touch "$dir/file"
    check --store "$dir/file"
    [ "$status" = 1 ]
    out_has "$dir/file in the image store: not a directory; mend that, or choose another directory"
}

@test "--image: what a registry has, and what the store has of it" {
    pyxis_as "$alice" check --store "$dir/store" --image "docker://$R/shapes"
    ok
    out_has "ok    registry:"
    out_has "$R answered in "
    out_has "$R#shapes:latest for linux/amd64"
    out_has "0 of them are in the store"
    [ ! -e "$dir/store" ]
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/shapes"
    ok
    pyxis_as "$alice" check --json --store "$dir/store" --image "docker://$R/shapes"
    ok
    [[ $(finding image.manifest .fact) =~ ([0-9]+)\ layers,.*\ ([0-9]+)\ of\ them\ are\ in\ the\ store ]]
    [ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ] && [ "${BASH_REMATCH[1]}" -ge 4 ]
}

@test "--image: errors are those of an import" {
    local error
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/no-such-image"
    error=$(pyxis_errors)
    pyxis_as "$alice" check --store "$dir/store" --image "docker://$R/no-such-image"
    [ "$status" = 1 ]
    out_has "${error#pyxis: }"
    pyxis_as "$alice" check --store "$dir/store" --image "docker://127.0.0.1:9/none"
    [ "$status" = 1 ]
    out_has "127.0.0.1:9"
    out_has "nobody answers, look at the network"
    pyxis_as "$alice" check --image "./file.sqsh"
    [ "$status" = 1 ]
    out_has "is not an image of a registry"
}

@test "--image: with the caller's credentials" {
    local image=$H#basic/check-$BATS_TEST_NUMBER
    run --separate-stderr as "$alice" ENROOT_CONFIG_PATH="$dir" timeout 90 pyxis check --image "$image"
    [ "$status" = 1 ]
    out_has "needs credentials"
    out_has "; correct the name, or the credentials in "
    printf 'machine 127.0.0.1 login alice password $SECRET\n' | install -o "$alice" -m 0600 /dev/stdin "$dir/.credentials"
    run --separate-stderr as "$alice" ENROOT_CONFIG_PATH="$dir" SECRET="open sesame" timeout 90 pyxis check --image "$image"
    ok
    out_has "basic/check-$BATS_TEST_NUMBER"
    out_lacks "open sesame"
}

@test "--help says what the exit code means" {
    run pyxis check --help
    ok
    out_has "Exit code: 0 when containers will start, 1 when they will not"
}
