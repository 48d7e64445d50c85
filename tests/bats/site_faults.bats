# A site that has made a mistake: its settings or directories are wrong. No container starts then, a line says what to mend, and
# jobs without containers run. On the node tiny, which has a pyxis.toml and a store of its own.

setup() {
    load common
    policy=$test_state/tiny.toml
    cp "$policy" "$BATS_TEST_TMPDIR/policy"
    wrong=/var/lib/pyxis-wrong
    mkdir -m 0700 "$wrong"
}
teardown() {
    as_it_was
    chmod 0644 "$policy"
    ! in_tiny mountpoint -q "$wrong" || in_tiny umount "$wrong"
    rm -rf "$wrong"
}

# in_tiny COMMAND...: where the node's mounts are.
in_tiny() { nsenter --mount --target "$(pgrep -f "^slurmd -D -f $SLURM_CONF -N tiny")" "$@"; }
# The settings as they were; in the same file, as it is what the node has mounted.
as_it_was() { cat "$BATS_TEST_TMPDIR/policy" >"$policy"; }
# site LINE...: settings of the site beside those that it has.
site() { printf '%s\n' "$@" >>"$policy"; }
# stopped TEXT...: a container fails with these texts, and a step without one runs.
stopped() {
    box -p tiny true
    fails "$@"
    job -p tiny true
    ok
}

@test "an unknown setting, and one of the wrong type: file, line, name and what is allowed" {
    local count
    count=$(wc -l <"$policy")
    site '[container]' 'writabel = true'
    stopped "pyxis.toml, line $((count + 2))" 'unknown field `writabel`' 'remap_root'
    as_it_was
    site '[container]' 'writable = "perhaps"'
    stopped "pyxis.toml, line $((count + 2))" 'writable: ' 'boolean'
    as_it_was
    site '[images]' 'user_images = "some"'
    stopped "pyxis.toml, line $((count + 2))" 'user_images: ' '`some`' '`deny`'
}

@test "a pyxis.toml that cannot be read" {
    printf '\xff\n' >>"$policy"
    stopped 'pyxis.toml cannot be read'
}

@test "a pyxis.toml that others than root can write" {
    chmod 0664 "$policy"
    stopped 'pyxis.toml can be written by others than root: chown root '
}

@test "a store with another owner or a wider mode" {
    site '[store]' "path = \"$wrong\""
    chmod 0755 "$wrong"
    stopped "the image store $wrong belongs to uid 0 with mode 0755: it must belong to uid 0 with mode 0700"
    chmod 0700 "$wrong"
    chown "$alice" "$wrong"
    stopped "the image store $wrong belongs to uid $alice_uid with mode 0700: it must belong to uid 0"
}

@test "a store that can only be read" {
    site '[store]' "path = \"$wrong\""
    in_tiny mount -t tmpfs -o ro,mode=0700 wrong "$wrong"
    stopped "$wrong" 'read-only' 'mount it writable or set store.path'
}

@test "a store that is a file, and one where nothing is" {
    site '[store]' "path = \"$wrong/file\""
    touch "$wrong/file"
    stopped "$wrong/file" 'not a directory'
    rm "$wrong/file"
    box -p tiny true
    ok
}

@test "no service user, no worker, and a worker that others can write" {
    site '[worker]' 'user = "nobody-of-this-name"'
    stopped 'the service user nobody-of-this-name is not in /etc/passwd' 'set worker.user'
    as_it_was
    site '[worker]' "path = \"$wrong/worker\""
    stopped "$wrong/worker" 'install pyxis again or set worker.path'
    cp /usr/libexec/pyxis/worker "$wrong/worker"
    chmod 0777 "$wrong/worker"
    stopped "$wrong/worker"
}
