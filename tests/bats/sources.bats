# --container-image=oci:, oci-archive: and docker-archive: images in directories and tar files, good and evil ones. The makers
# and oracles are skopeo and umoci besides our own script.

setup_file() {
    load common
    export IMAGES=$BATS_FILE_TMPDIR/images
    chmod 0755 "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR"
    mkdir -m 0755 "$IMAGES"
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$root/tests/local/images.py" "$IMAGES"
}

setup() { load common; }

# shows IMAGE TEXT: the image runs, and is the one that says so.
shows() {
    job --container-image="$1" cat /image
    says "$2"
}

# broken IMAGE TEXT...: one line.
broken() {
    job --container-image="$1" echo ran
    fails "failed to import docker image: $1" "${@:2}"
}

packs() { find $store/packs-* -name '*.sqsh' | sort; }

@test "a directory in OCI layout, by tag and by name" {
    shows "oci:$IMAGES/two-images:one" one
    shows "oci:$IMAGES/two-images:localhost/two:latest" two
    shows "oci:$IMAGES/machines" one
    shows "oci:$IMAGES/linked" one
}

@test "an archive in OCI layout, and one of Docker's: with names, without, old, new, packed" {
    shows "oci-archive:$IMAGES/two-images.tar:one" one
    shows "docker-archive:$IMAGES/docker.tar" plain
    shows "docker-archive:$IMAGES/docker.tar:x/plain:2" plain
    shows "docker-archive:$IMAGES/docker-two.tar:other:1" other
    for file in docker.tar.gz docker.tar.zst docker-none.tar docker-new.tar; do
        shows "docker-archive:$IMAGES/$file" plain
    done
    shows "docker-archive:$IMAGES/docker-packed.tar" packed
    shows "docker-archive:$IMAGES/docker-old.tar" plain
}

@test "the image's variables and directory, writing, root inside, many tasks" {
    job --container-image="oci:$IMAGES/machines" sh -c 'echo $MARK $PWD; stat -c %u /image'
    says "one /tmp"$'\n'"$alice_uid"
    job --container-writable --container-remap-root --container-image="oci-archive:$IMAGES/two-images.tar:one" \
        sh -c 'echo more >>/image && cat /image && id -u'
    says $'one\nmore\n0'
    run --separate-stderr as "$alice" timeout 90 srun --quiet -n4 --container-image="docker-archive:$IMAGES/docker.tar" cat /image
    says "$(printf 'plain\n%.0s' 1 2 3 4)"
}

@test "what skopeo and umoci make, and the same files as from the registry" {
    local dir seen reference
    dir=$(alice_dir tools)
    copy() { skopeo copy -q --insecure-policy --src-tls-verify=false "$@"; }
    copy "docker://$R/shapes" "oci:$dir/layout:1"
    copy "oci:$dir/layout:1" "oci-archive:$dir/oci.tar:some/name:1"
    # zstd layers have no place in this form.
    copy "docker://$R/schema2" "docker-archive:$dir/docker.tar:some/name:1"
    umoci tag --image "$dir/layout:1" 2
    umoci config --image "$dir/layout:2" --config.env COLOUR=blue
    chown -R "$alice:" "$dir"
    seen='cd / && find f w without -type f -exec sha256sum {} + | sort -k2'
    job --container-image="$R#shapes" sh -c "$seen"
    ok
    reference=$output
    for image in "oci:$dir/layout:1" "oci-archive:$dir/oci.tar"; do
        job --container-image="$image" sh -c "$seen"
        says "$reference"
    done
    job --container-image="oci:$dir/layout:2" sh -c 'echo $COLOUR'
    says blue
    job --container-image="docker-archive:$dir/docker.tar" cat /etc/os-release
    ok; out_has "Busybox in a container"
}

@test "relative paths begin at the job's directory" {
    local dir
    dir=$(alice_dir relative)
    cp "$IMAGES/docker.tar" "$dir/x y.tar"
    chown -R "$alice:" "$dir"
    for image in "docker-archive:${dir##*/}/x y.tar" "docker-archive:./${dir##*/}/x y.tar:plain:1"; do
        shows "$image" plain
    done
}

@test "a second start makes no new packs, and reads no layer" {
    local before blob
    shows "oci:$IMAGES/two-images:one" one
    before=$(packs)
    job PYXIS_TRACE=1 --container-image="oci:$IMAGES/two-images:one" true
    ok; err_has '"downloaded_layers":0'
    job PYXIS_TRACE=1 --container-image="oci-archive:$IMAGES/two-images.tar:one" true
    ok; err_has '"downloaded_layers":0'
    [ "$(packs)" = "$before" ]
}

@test "a layer of the store is for who has its bytes: naming its digest does not open it" {
    local dir blob image
    dir=$(mktemp -d "$alice_home/own.XXXXXX")
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 - "$root/tests/local" "$dir" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
import images
own = images.image("alice's own " + sys.argv[2])
files = images.layout([images.entry(own)], [own])
images.directory(sys.argv[2] + "/layout", files)
blob = "blobs/sha256/" + own.layers[1].blob.digest.split(":")[1]
# Of the same length and the same name.
images.directory(sys.argv[2] + "/claim", {**files, blob: b"x" * len(files[blob])})
images.directory(sys.argv[2] + "/nothing", {name: data for name, data in files.items() if name != blob})
PY
    chown -R "$alice:" "$dir/layout"
    chmod 0700 "$dir/layout"
    chmod 0755 "$dir"
    job --container-image="oci:$dir/layout" cat /image
    says "alice's own $dir"
    # Nobody else reads it from her.
    run --separate-stderr as "$bob" timeout 90 srun --quiet --container-image="oci:$dir/layout" cat /image
    fails "$dir/layout" "Permission denied"
    chmod -R a+rX "$dir/claim" "$dir/nothing"
    run --separate-stderr as "$bob" timeout 90 srun --quiet --container-image="oci:$dir/claim" cat /image
    fails "does not match its digest"
    run --separate-stderr as "$bob" timeout 90 srun --quiet --container-image="oci:$dir/nothing" cat /image
    fails "No such file"
    # Who has the bytes may use what is there.
    chmod 0755 "$dir/layout"
    run --separate-stderr as "$bob" timeout 90 srun --quiet --container-image="oci:$dir/layout" cat /image
    says "alice's own $dir"
}

@test "a container with a name, and its layers again from the file" {
    local dir name=local-$$
    dir=$(alice_dir named)
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 - "$root/tests/local" "$dir" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
import images
for name in ("first", "second"):
    image = images.image(name + sys.argv[2], "none")
    images.archive(f"{sys.argv[2]}/{name}.tar", images.docker([(None, image)]))
PY
    chown -R "$alice:" "$dir"
    job --container-name="$name" --container-writable --container-image="docker-archive:$dir/first.tar" sh -c 'echo more >>/image'
    ok
    job --container-name="$name" cat /image
    says "first$dir"$'\nmore'
    rm -f $store/packs-*/*
    job --container-name="$name" cat /image
    says "first$dir"$'\nmore'
    # The file holds another image now, and then nothing.
    rm -f $store/packs-*/*
    mv "$dir/second.tar" "$dir/first.tar"
    job --container-name="$name" cat /image
    fails "get the layers of docker-archive:$dir/first.tar again" "others now"
    rm -f $store/packs-*/* "$dir/first.tar"
    job --container-name="$name" cat /image
    fails "get the layers of docker-archive:$dir/first.tar again" "No such file"
    rm -rf "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
}

@test "pyxis pull and pyxis images" {
    local dir
    dir=$(alice_dir pulled)
    for image in "oci:$IMAGES/two-images:one" "docker-archive:$IMAGES/docker.tar"; do
        pyxis_as "$alice" pull --store "$dir/store" "$image"
        ok; out_has "(2 layers, 2 downloaded)"
        pyxis_as "$alice" pull --store "$dir/store" "$image"
        ok; out_has "(2 layers, 0 downloaded)"
    done
    pyxis_as "$alice" images --store "$dir/store"
    ok; out_has "oci:$IMAGES/two-images:one "; out_has "docker-archive:$IMAGES/docker.tar "
    job --container-image="oci:$IMAGES/two-images:one" true
    ok
    run --separate-stderr pyxis images
    ok; out_has "oci:$IMAGES/two-images:one (uid $alice_uid)"
}

@test "what is no directory, no archive, no file" {
    local dir
    dir=$(alice_dir kinds)
    mkfifo -m 0666 "$dir/fifo"
    : >"$dir/empty"
    head -c 3000 /dev/urandom >"$dir/foreign"
    cp "$IMAGES/docker.tar" "$dir/closed"
    chmod 0600 "$dir/closed"
    cp -r "$IMAGES/machines" "$dir/shut"
    chmod 0600 "$dir/shut/index.json"
    cp -r "$IMAGES/machines" "$dir/piped"
    rm "$dir/piped/index.json"
    mkfifo -m 0666 "$dir/piped/index.json"
    broken "oci:/no/such/directory" "/no/such/directory: No such file or directory"
    broken "docker-archive:/no/such/file" "/no/such/file: No such file or directory"
    broken "docker-archive:$dir/closed" "$dir/closed: Permission denied"
    broken "oci:$dir/shut" "$dir/shut/index.json: Permission denied"
    broken "oci:$dir/piped" "$dir/piped/index.json is a FIFO"
    broken "docker-archive:$dir/fifo" "$dir/fifo is a FIFO"
    broken "docker-archive:/dev/urandom" "/dev/urandom is a device"
    broken "oci-archive:$dir" "$dir is a directory"
    broken "oci:$IMAGES/docker.tar" "is a file, and oci: wants a directory"
    broken "docker-archive:$dir/empty" "$dir/empty"
    broken "docker-archive:$dir/foreign" "$dir/foreign" "damaged"
    broken "docker-archive:$IMAGES/two-images.tar" "is an OCI archive: write oci-archive:"
    broken "oci-archive:$IMAGES/docker.tar" "write docker-archive: in front of it"
}

@test "several images, and none is named, or one that is not there" {
    broken "oci:$IMAGES/two-images" "several images" "localhost/two:latest, one"
    broken "docker-archive:$IMAGES/docker-two.tar" "several images" "docker.io/library/other:1, plain:1"
    broken "docker-archive:$IMAGES/docker-two.tar:3" "no such image" "docker.io/library/other:1, plain:1"
}

# cli/tests/pull/local.rs has all of them.
@test "evil layouts: what is missing, does not match, is too deep, leads out" {
    local bad=$IMAGES/bad
    # The layers that others made are not alice's: these are read.
    rm -f $store/grants/*.uid-*
    broken "oci:$bad/bad-layer" "does not match its digest"
    broken "oci-archive:$bad/bad-layer.tar" "does not match its digest"
    broken "oci:$bad/no-layer" "not complete"
    broken "oci:$bad/shadow" "leads out of the directory"
    broken "oci:$bad/shadow-index" "leads out of the directory"
    broken "oci:$bad/deep" "more than 2 deep"
    broken "oci:$bad/bad-diff-id" "does not match the diff id"
    broken "oci:$bad/arm" "only: linux/arm64"
}

@test "evil archives of Docker's" {
    local bad=$IMAGES/bad
    rm -f $store/grants/*.uid-*
    broken "docker-archive:$bad/docker-bad-layer.tar" "does not match its digest"
    broken "docker-archive:$bad/docker-twice.tar" "several members named manifest.json"
    broken "docker-archive:$bad/docker-shadow.tar" "has no member"
    broken "docker-archive:$bad/docker-cut.tar" "truncated"
    broken "docker-archive:$bad/docker-cut.tar.gz" "the archive is truncated"
}
