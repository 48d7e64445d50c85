# The command without Slurm: pyxis pull, pyxis images.

setup() {
    load common
    dir=$(alice_dir "pull-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$dir"; umount "$BATS_TEST_TMPDIR/small" 2>/dev/null || true; }

packs() { find "$1" -type f -size +0 -exec sh -c 'head -c4 "$1" | grep -q hsqs && echo "$1"' sh {} \; | sort; }

@test "pull as a user, then images" {
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/shapes"
    ok
    pyxis_as "$alice" images --store "$dir/store"
    ok
    out_has shapes
    [ "$(packs "$dir/store" | wc -l)" -ge 4 ]
}

@test "PYXIS_STORE" {
    run --separate-stderr as "$alice" PYXIS_STORE="$dir/store" pyxis pull "docker://$R/busybox"
    ok
    run --separate-stderr as "$alice" PYXIS_STORE="$dir/store" pyxis images
    ok
    out_has busybox
}

@test "pull as root" {
    run --separate-stderr pyxis pull --store "$BATS_TEST_TMPDIR/store" "docker://$R/busybox"
    ok
    [ "$(packs "$BATS_TEST_TMPDIR/store" | wc -l)" = 1 ]
}

@test "packs are squashfs files that unsquashfs reads, owned by root inside" {
    local pack
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/library/debian:12"
    ok
    for pack in $(packs "$dir/store"); do
        unsquashfs -s "$pack" >/dev/null
        unsquashfs -lln "$pack" >"$BATS_TEST_TMPDIR/list"
        [ "$(grep -E '^[-dlcbps]' "$BATS_TEST_TMPDIR/list" | awk '$2 != "0/0"' | wc -l)" = 0 ]
    done
}

@test "the content of a pack is the content of the layer, file by file" {
    local pack tree=$BATS_TEST_TMPDIR/tree
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/library/debian:12"
    ok
    pack=$(packs "$dir/store" | xargs ls -S | head -n1)
    unsquashfs -q -n -d "$tree" "$pack" >/dev/null
    # Owners are all root in a pack, and set-id bits and devices are dropped: contents and kinds are compared.
    diff --recursive --no-dereference --brief --exclude=dev "$cache/debian-12" "$tree"
}

@test "the same image gives the same bytes" {
    pyxis_as "$alice" pull --store "$dir/one" "docker://$R/shapes"
    ok
    run --separate-stderr as "$alice" taskset -c 0 pyxis pull --store "$dir/two" "docker://$R/shapes"
    ok
    diff <(packs "$dir/one" | xargs sha256sum | cut -d' ' -f1 | sort) <(packs "$dir/two" | xargs sha256sum | cut -d' ' -f1 | sort)
}

@test "a second pull gets the manifest only" {
    local mark
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/shapes"
    ok
    mark=$(registry_mark)
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/shapes"
    ok
    [ "$(requests_since "$mark" shapes blobs)" = 0 ]
}

@test "images that share layers get them once" {
    local mark
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/busybox"
    ok
    mark=$(registry_mark)
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/deep"
    ok
    # 40 layers of its own and the config; not the base, which busybox brought.
    [ "$(requests_since "$mark" deep blobs)" = 41 ]
}

@test "four pulls of one image at once get each layer once" {
    local mark n pids=() layers layer
    mark=$(registry_mark)
    for n in 1 2 3 4; do
        as "$alice" timeout 300 pyxis pull --store "$dir/store" "docker://$R/shapes" >/dev/null 2>&1 3>&- &
        pids+=($!)
    done
    for n in "${pids[@]}"; do wait "$n"; done
    layers=$(skopeo inspect --tls-verify=false "docker://$R/shapes" | jq -r '.Layers | unique | .[]')
    for layer in $layers; do
        [ "$(tail -n +$((mark + 1)) "$registry_log" | grep -c "\"GET /v2/shapes/blobs/$layer ")" = 1 ] || { echo "$layer"; false; }
    done
}

@test "full disk: one line, and the store is as before" {
    mkdir -p "$BATS_TEST_TMPDIR/small"
    mount -t tmpfs -o size=2m tmpfs "$BATS_TEST_TMPDIR/small"
    run --separate-stderr timeout 300 pyxis pull --store "$BATS_TEST_TMPDIR/small/store" "docker://$R/library/debian:12"
    [ "$status" != 0 ]
    [ "$status" != 124 ]
    err_has "free some space"
    [ "$(grep -c . <<<"$stderr")" = 1 ]
    [ "$(du -sk "$BATS_TEST_TMPDIR/small" | cut -f1)" -lt 500 ]
}

@test "a store that the user may not write" {
    pyxis_as "$alice" pull --store /var/lib/pyxis "docker://$R/busybox"
    [ "$status" != 0 ]
    err_has "permission denied"
}

@test "errors have one line and an exit code" {
    local image
    for image in "docker://$R/no/such/image" "docker://127.0.0.1:1/x" "docker://$H/bad-layer/cli" "ftp://x/y"; do
        pyxis_as "$alice" pull --store "$dir/store" "$image"
        [ "$status" != 0 ]
        [[ $(grep -c . <<<"$stderr") == 1 && $stderr == "pyxis: "* ]] || { show; false; }
    done
}

@test "nothing temporary stays in the store, also after SIGKILL" {
    local pid
    pyxis_as "$alice" pull --store "$dir/store" "docker://$R/busybox"
    ok
    find "$dir/store" | sort >"$BATS_TEST_TMPDIR/before"
    as "$alice" pyxis pull --store "$dir/store" "docker://$H/slow-layer/cli" >/dev/null 2>&1 3>&- &
    pid=$!
    poll 20 "the layer is asked for" grep -q "slow-layer/cli/blobs" "$request_log"
    pkill -9 -u "$alice" -x pyxis || true
    wait "$pid" || true
    poll 10 "the workers are gone" no_workers
    [ "$(find "$dir/store" -type f -newer "$BATS_TEST_TMPDIR/before" -size +0 -not -path '*/packs-*' -not -path '*/configs/*' | wc -l)" = 0 ]
    [ "$(packs "$dir/store" | wc -l)" -le 2 ]
}
no_workers() { ! pgrep -u "$alice" -x 'pyxis|worker' >/dev/null; }

@test "help and version" {
    pyxis_as "$alice" --help
    ok
    out_has pull
    out_has images
    pyxis_as "$alice" --version
    ok
    pyxis_as "$alice" no-such-command
    [ "$status" != 0 ]
}
