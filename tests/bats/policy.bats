# [policy]: what no job may have, whatever it asks for. The node "tiny" has its own settings. Everything here can be read by
# everybody, so that nothing but the policy is in the way.

setup_file() {
    load common
    export SETTINGS=$test_state/tiny.toml DATA=/var/lib/pyxis-test-data.$$
    cp "$SETTINGS" "$BATS_FILE_TMPDIR/settings"
    mkdir -m 0755 "$DATA" "$DATA/other"
    install -d -o "$alice" -m 0755 "$DATA/$alice" "$DATA/$alice/mine"
    echo mine >"$DATA/$alice/mine/file"
    echo secret >"$DATA/other/file"
    mksquashfs "$DATA/other" "$DATA/other/data.sqsh" -quiet -no-progress >/dev/null
    mksquashfs "$DATA/$alice/mine" "$DATA/$alice/data.sqsh" -quiet -no-progress >/dev/null
}

setup() { load common; }

teardown() { cat "$BATS_FILE_TMPDIR/settings" >"$SETTINGS"; }

teardown_file() { rm -rf "$DATA"; }

policy() { { cat "$BATS_FILE_TMPDIR/settings"; printf '\n[policy]\n'; printf '%s\n' "$@"; } >"$SETTINGS"; }
tiny() { job "$@" -p tiny --container-image="$R#busybox" "${words[@]}"; }
# sees MOUNT: what the job reads in /mnt/file.
sees() { words=(cat /mnt/file); tiny --container-mounts="$1"; }
denies() { fails "the site's policy.mount_sources forbids $1 (allowed: $DATA/$alice)"; }

@test "a tenant mounts what is his, whatever way he names it, and nothing else" {
    policy "mount_sources = ['$DATA/{group}']"
    as "$alice" ln -sfn "$DATA/other" "$DATA/$alice/link"
    as "$alice" ln -sfn "$DATA/$alice/mine" "$alice_home/to-mine"
    for own in "$DATA/$alice/mine" "$DATA/$alice/../$alice/mine" "$alice_home/to-mine"; do
        sees "$own:/mnt"
        says mine
    done
    for path in "$DATA/other" "$DATA/$alice/../other" "$DATA/$alice/link" "$DATA/$alice/link/../other"; do
        sees "$path:/mnt"
        denies "$DATA/other"
    done
    sees "$DATA/other/file:/mnt/file"
    denies "$DATA/other/file"
    sees "$DATA:/mnt"
    denies "$DATA"
    sees /:/mnt
    denies /
    sees /proc/self/root:/mnt
    fails "source path /proc/self/root"
    rm "$alice_home/to-mine"
}

@test "a link that changes while containers start leads nowhere else" {
    local seen=0 turns=20 turner
    policy "mount_sources = ['$DATA/{user}']"
    as "$alice" sh -c 'while sleep 0.002; do ln -sfn "$0/other" "$1/turning"; ln -sfn "$1/mine" "$1/turning"; done' \
        "$DATA" "$DATA/$alice" 3>&- &
    turner=$!
    poll 10 "the link turns" test -L "$DATA/$alice/turning"
    while [ $((turns -= 1)) -ge 0 ]; do
        sees "$DATA/$alice/turning:/mnt"
        [[ $output != *secret* ]] || { show; break; }
        [ "$output" != mine ] || seen=$((seen + 1))
    done
    pkill -u "$alice" -f turning || true
    kill "$turner" 2>/dev/null || true
    wait "$turner" || true
    [ "$turns" = -1 ] && [ "$seen" -gt 0 ] || { echo "$turns turns left, $seen of them seen"; false; }
}

@test "squashfs files, the user's mounts.d and variables that name directories are no way round" {
    policy "mount_sources = ['$DATA/{group}']"
    sees "$DATA/$alice/data.sqsh:/mnt:squashfs"
    says mine
    sees "$DATA/other/data.sqsh:/mnt:squashfs"
    denies "$DATA/other/data.sqsh"
    as "$alice" mkdir -p "$alice_home/policy/mounts.d"
    echo "$DATA/other /mnt none bind" | install -o "$alice" /dev/stdin "$alice_home/policy/mounts.d/x.fstab"
    words=(cat /mnt/file)
    tiny ENROOT_CONFIG_PATH="$alice_home/policy"
    denies "$DATA/other"
    rm -r "$alice_home/policy"
    tiny PMIX_NAMESPACE=x PMIX_SERVER_TMPDIR="$DATA/other"
    denies "$DATA/other"
}

@test "what the site itself mounts is no concern of the job's list" {
    policy "mount_sources = []"
    words=(sh -c 'pwd; test -e /proc/self && test -e /etc/resolv.conf && echo runs')
    tiny --container-mount-home --container-workdir="$alice_home"
    says "$alice_home"$'\nruns'
    sees "$DATA/$alice/mine:/mnt"
    fails "the site's policy.mount_sources forbids $DATA/$alice/mine (nothing is allowed)"
}

@test "registries and parts of them, before anybody is asked" {
    local before
    policy "registries = ['${R%:*}:*/busybox', '*.example.com']"
    job -p tiny --container-image="$R#busybox" echo ran
    says ran
    before=$(wc -l <"$request_log")
    for image in "$H#x" "$R#debian" nvcr.io#nvidia/cuda debian podman://debian; do
        job -p tiny --container-image="$image" true
        fails "$image" "the site's policy.registries forbids"
    done
    [ "$(wc -l <"$request_log")" = "$before" ]
}

@test "directories of image files" {
    policy "image_paths = ['$DATA/{user}']"
    as "$alice" ln -sfn "$DATA/other/data.sqsh" "$DATA/$alice/link.sqsh"
    for path in "$DATA/other/data.sqsh" "$DATA/$alice/link.sqsh"; do
        job -p tiny --container-image="$path" true
        fails "the site's policy.image_paths forbids $DATA/other/data.sqsh (allowed: $DATA/$alice)"
    done
    # This one is looked at: it just has no programs.
    job -p tiny --container-image="$DATA/$alice/data.sqsh" /no/such
    dies "/no/such"
    job -p tiny --container-image=oci:/x true
    fails "policy.image_paths forbids images of directories, archives, docker and podman"
}

@test "home, writing and root inside, also when they are the site's or the user's default" {
    local option without
    words=(true)
    for option in mount_home writable remap_root; do
        without=--no-container-${option/_/-}
        [ "$option" != writable ] || without=--container-readonly
        policy "$option = false"
        tiny "--container-${option/_/-}"
        fails "the site's policy.$option = false forbids --container-${option/_/-}: use $without"
        tiny "$without"
        ok
        tiny
        ok
    done
    policy "mount_home = false"
    tiny ENROOT_MOUNT_HOME=yes
    fails "policy.mount_home = false"
}

@test "a container that was made before is asked again" {
    local name=policy$$
    words=(true)
    tiny --container-name="$name"
    ok
    policy "registries = []"
    job -p tiny --container-name="$name" true
    fails "the site's policy.registries forbids" "nothing is allowed"
    rm -rf "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
}

@test "a policy with a mistake stops containers, and says where it is" {
    words=(true)
    policy "mount_sources = ['data']"
    tiny
    fails "/etc/pyxis/pyxis.toml: policy.mount_sources: \"data\": it is not an absolute path"
    policy "mount_sauces = []"
    tiny
    fails "/etc/pyxis/pyxis.toml, line" "unknown field \`mount_sauces\`" "mount_sources"
    policy "image_paths = ['/data/{account}']"
    tiny
    fails "placeholders are {user}, {uid}, {group}, {gid}"
}

@test "the example of the page about tenants" {
    [ ! -e /data ] || skip "this machine has a /data of its own"
    who=$alice work=$(alice_dir tenants)
    mkdir -p /data/physics /data/chemistry
    groupadd --force physics
    { cat "$BATS_FILE_TMPDIR/settings"; sed -n '/^```toml$/,/^```$/p' "$root/docs/admin/tenants.md" | grep -v '^`' |
        sed "s,registry.example.com/shared,$R/busybox,"; } >"$SETTINGS"
    as_group=physics commands docs/admin/tenants.md tenants SLURM_PARTITION=tiny || status=1
    groupdel physics
    rm -r /data "$work"
    [ "$status" = 0 ]
}
