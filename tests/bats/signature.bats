# images.require_signature and pyxis verify: which image files run, and why others do not. The node "tiny" has its own settings.

setup_file() {
    load common
    "$root/tests/cluster/apptainer"
    export SIF=$cache/sif TRUSTED=/var/lib/pyxis-test-signed.$$ SETTINGS=$test_state/tiny.toml
    cp "$SETTINGS" "$BATS_FILE_TMPDIR/settings"
    mkdir -m 0755 "$TRUSTED"
    cp "$SIF"/*.sif "$SIF/key.asc" "$TRUSTED/"
    chmod 0644 "$TRUSTED"/*
    printf '\n[images]\nrequire_signature = true\nkeyrings = ["%s/key.asc"]\n' "$TRUSTED" >>"$SETTINGS"
}

setup() { load common; }

teardown_file() {
    cat "$BATS_FILE_TMPDIR/settings" >"$SETTINGS"
    rm -rf "$TRUSTED"
}

# tampered NAME OFFSET: a copy of the signed image with another byte there.
tampered() {
    cp "$TRUSTED/signed.sif" "$TRUSTED/$1"
    printf '\x5a' | dd of="$TRUSTED/$1" bs=1 seek="$2" conv=notrunc status=none
}

strict() { job -p tiny --container-image="$1" "${@:2}" sh -c 'echo $COLOUR'; }
rule="the site's images.require_signature = true forbids this image: "

@test "a file signed by a known key runs" {
    strict "$TRUSTED/signed.sif"
    says blue
}

@test "others are refused by the name of the rule" {
    strict "$TRUSTED/env.sif"
    fails "$rule" "it is not signed"
    strict "$TRUSTED/other.sif"
    fails "$rule" "signature 4:"
    mksquashfs "$TRUSTED/key.asc" "$TRUSTED/x.sqsh" -quiet -no-progress >/dev/null
    strict "$TRUSTED/x.sqsh"
    fails "$rule" "only SIF files can be signed"
}

@test "images without any signature that is checked are refused; those of registries are another matter" {
    for image in oci:/no/such oci-archive:/no/such.tar docker-archive:/no/such.tar dockerd://x podman://x; do
        strict "$image"
        fails "$image" "${rule}directories, archives, docker and podman have no signature that is checked"
    done
    job -p tiny --container-image="$R#busybox" echo ran
    says ran
}

@test "files with data are asked for their signature too" {
    data() { job -p tiny --container-image="$R#busybox" --container-mounts="$1:/data:squashfs" cat /data/etc/os-release; }
    data "$TRUSTED/signed.sif"
    says 'PRETTY_NAME="Built by Apptainer"'
    data "$TRUSTED/env.sif"
    fails "$TRUSTED/env.sif: $rule" "it is not signed"
}

@test "a container with a name is asked again, though it was made before" {
    local name=signed$$
    strict "$TRUSTED/signed.sif" --container-name="$name"
    says blue
    job -p tiny --container-name="$name" sh -c 'echo $COLOUR'
    says blue
    cp "$TRUSTED/signed.sif" "$BATS_TEST_TMPDIR/kept"
    tampered again 500000
    cat "$TRUSTED/again" >"$TRUSTED/signed.sif"
    job -p tiny --container-name="$name" true
    cat "$BATS_TEST_TMPDIR/kept" >"$TRUSTED/signed.sif"
    rm -rf "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
    fails "$rule" "is not what was signed"
}

@test "a byte that was changed is seen: partition, descriptor, header" {
    local table
    table=$(od -An -tu8 -j96 -N8 "$TRUSTED/signed.sif" | tr -d ' ')
    tampered partition 500000
    strict "$TRUSTED/partition"
    fails "$rule" "object 3 (partition) is not what was signed"
    tampered descriptor $((table + 2 * 585 + 80))
    strict "$TRUSTED/descriptor"
    fails "$rule" "the descriptor of object 3 is not what was signed"
    tampered header 50
    strict "$TRUSTED/header"
    fails "$rule" "its header is not what was signed"
}

@test "a file that its owner can change is refused, however it is signed" {
    cp "$TRUSTED/signed.sif" "$alice_home/signed.sif"
    chown "$alice:" "$alice_home/signed.sif"
    strict "$alice_home/signed.sif"
    rm "$alice_home/signed.sif"
    fails "$rule" "could be changed after the check"
}

@test "key rings that others can write, or that are not named, are the administrator's" {
    local settings
    settings=$(cat "$SETTINGS")
    chmod 0666 "$TRUSTED/key.asc"
    strict "$TRUSTED/signed.sif"
    chmod 0644 "$TRUSTED/key.asc"
    fails "the key ring $TRUSTED/key.asc must be a regular file that belongs to root"
    # It is mounted: the file stays the same one.
    grep -v ^keyrings <<<"$settings" >"$SETTINGS"
    strict "$TRUSTED/signed.sif"
    echo "$settings" >"$SETTINGS"
    fails "images.require_signature = true needs images.keyrings"
}

@test "pyxis verify says the same by hand, also as JSON" {
    pyxis_as "$alice" verify --keyring "$TRUSTED/key.asc" "$TRUSTED/signed.sif"
    ok; out_has "signature 4: good"; out_has "key@example.org"; out_has "objects 1, 2, 3"
    pyxis_as "$alice" verify --json --keyring "$TRUSTED/key.asc" "$TRUSTED/signed.sif"
    [ "$(jq -r '.good[0].signed | join(" ")' <<<"$output")" = "1 2 3" ]
    pyxis_as "$alice" verify --keyring "$TRUSTED/key.asc" "$TRUSTED/other.sif"
    dies "other.sif: signature 4:"
    pyxis_as "$alice" verify --keyring "$TRUSTED/key.asc" "$TRUSTED/env.sif"
    dies "it is not signed"
    pyxis_as "$alice" verify --keyring /no/such "$TRUSTED/signed.sif"
    dies "the key ring /no/such cannot be opened"
}
