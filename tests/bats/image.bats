# --container-image: every way to name an image, every kind of manifest and layer.

setup() { load common; }

@test "an unprivileged user's job sees the container's os-release" {
    job --container-image="$R#library/debian:12" grep PRETTY /etc/os-release
    says 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm) in a container"'
}

@test "without options the plugin does nothing" {
    job readlink /proc/self/ns/mnt
    says "$(readlink /proc/self/ns/mnt)"
    err_lacks pyxis
}

@test "names with # and with /, with and without docker://" {
    local name
    for name in "$R#busybox" "$R/busybox" "$R#busybox:1.35" "$R/busybox:1.35" "docker://$R#busybox" "docker://$R/busybox:1.35" \
        "$R#team/project/busybox" "$R/team/project/busybox:latest" "nobody@$R#busybox"; do
        job --container-image="$name" grep PRETTY /etc/os-release
        says 'PRETTY_NAME="Busybox in a container"'
    done
}

@test "the digest decides when tag and digest are given" {
    local digest
    digest=$(skopeo inspect --tls-verify=false "docker://$R/rich" | jq -r .Digest)
    job --container-image="$R/busybox:1.35@$digest" true
    fails
    digest=$(skopeo inspect --tls-verify=false "docker://$R/busybox" | jq -r .Digest)
    for name in "$R/busybox@$digest" "$R#busybox:no-such-tag@$digest"; do
        job --container-image="$name" grep PRETTY /etc/os-release
        says 'PRETTY_NAME="Busybox in a container"'
    done
}

@test "Docker schema 2" {
    job --container-image="$R#schema2" cat /etc/os-release
    ok; out_has "Busybox in a container"
}

@test "an OCI index: the host's architecture is chosen, attestations are skipped" {
    job --container-image="$R#index" cat /etc/os-release
    ok; out_has "Busybox in a container"
}

@test "a Docker manifest list" {
    job --container-image="$R#list" cat /etc/os-release
    ok; out_has "Busybox in a container"
}

@test "whiteouts, opaque directories and replaced files over layers of three packings" {
    job --container-image="$R#shapes" sh -c 'cd /w && find . | sort && cat kept opaque/new becomes-dir/inside becomes-file replaced'
    says "$(printf '%s\n' . ./becomes-dir ./becomes-dir/inside ./becomes-file ./kept ./opaque ./opaque/new ./replaced \
        kept new inside 'file now' above)"
}

@test "hard links, symbolic links, attributes, long and odd names" {
    job --container-image="$R#shapes" sh -c 'cd /f && stat -c "%h" one two three && [ one -ef three ] && cat absolute relative &&
        readlink dangling && cat n*n && cat d*/e* && cat *snow* *" and a space" 2>/dev/null; test -p fifo && echo fifo;
        test -s empty || echo empty; cat /without/parents/file'
    says "$(printf '%s\n' 3 3 3 linked linked /nowhere 'long name' deep 'odd name' fifo empty orphan)"
}

@test "extended attributes of users survive" {
    command -v getfattr
    job --container-image="$R#shapes" --container-mounts="$(command -v getfattr):/getfattr,/lib,/lib64,/usr/lib" \
        /getfattr --only-values -n user.colour /f/attr
    says blue
}

@test "a file that is larger than a block, and has a tail, is whole" {
    job --container-image="$R#shapes" sha256sum /f/large
    ok
    local wanted
    wanted=$(/usr/bin/python3 -c 'import hashlib; print(hashlib.sha256(bytes(range(256)) * 4096 * 3 + b"tail").hexdigest())')
    out_has "$wanted"
}

@test "device nodes, set-id bits and file capabilities of an image are dropped" {
    job --container-image="$R#shapes" sh -c 'test -c /f/null || echo no device; stat -c %a /f/setuid'
    says "$(printf 'no device\n755')"
    job --container-image="$R#shapes" --container-mounts="$(command -v getfattr):/getfattr,/lib,/lib64,/usr/lib" \
        /getfattr -d -m security.capability /f/capable
    says ""
}

@test "all files of an image belong to the user" {
    job --container-image="$R#shapes" sh -c "$not_owned; cat /f/secret"
    says x
}

@test "an image with 40 layers" {
    job --container-image="$R#deep" sh -c 'ls /deep | wc -l; cat /deep/39'
    says "$(printf '40\n39')"
}

@test "an image from scratch: one program, no directory" {
    job --container-image="$R#bare" /busybox sh -c '/busybox test -e /proc/self && /busybox cat /etc/passwd | /busybox head -n 1'
    ok; out_has "$alice:x:$alice_uid:"
}

@test "the first start says that it imports, the second too, and downloads nothing but the manifest" {
    local mark
    box true
    ok
    mark=$(registry_mark)
    job --container-image="$R#busybox" true
    ok
    [ "$(requests_since "$mark" busybox blobs)" = 0 ]
    [ "$(requests_since "$mark" busybox manifests)" -ge 1 ]
}

@test "import messages" {
    run --separate-stderr as "$alice" timeout 300 srun --container-image="$R#busybox" true
    ok
    [ "$(grep pyxis <<<"$stderr")" = "$(printf 'pyxis: %s docker image: %s\n' importing "$R#busybox" imported "$R#busybox")" ] || { show; false; }
}

@test "import messages of a batch script in a container" {
    local dir
    dir=$(alice_dir messages)
    as "$alice" timeout 300 sbatch --quiet --wait --nodes=1 --output="$dir/out" --container-image="$R#busybox" --wrap 'echo ran'
    [ "$(cat "$dir/out")" = "$(printf 'pyxis: %s docker image: %s\n' importing "$R#busybox" imported "$R#busybox"; echo ran)" ] || { cat "$dir/out"; false; }
    rm -rf "$dir"
}

@test "several tasks of a node import once and do not say so" {
    run --separate-stderr as "$alice" timeout 300 srun -n4 --container-image="$R#busybox" sh -c 'readlink /proc/self/ns/mnt'
    ok
    [ "${#lines[@]}" = 4 ]
    [ "$(sort -u <<<"$output" | wc -l)" = 1 ]
    err_lacks "importing docker image"
}

@test "a failing import is told once, whatever the number of tasks" {
    job -n4 --container-image="$R#no/such/image" true
    fails "failed to import docker image: $R#no/such/image"
}

@test "PYXIS_CONTAINER_IMAGE, and the command line wins" {
    job PYXIS_CONTAINER_IMAGE="$R#busybox" grep PRETTY /etc/os-release
    says 'PRETTY_NAME="Busybox in a container"'
    job PYXIS_CONTAINER_IMAGE="$R#no/such/image" --container-image="$R#busybox" grep PRETTY /etc/os-release
    says 'PRETTY_NAME="Busybox in a container"'
}

@test "two users run the same image, each as its owner" {
    box sh -c 'stat -c %u /bin/busybox'
    says "$alice_uid"
    run --separate-stderr as "$bob" srun --quiet --container-image="$R#busybox" sh -c 'stat -c %u /bin/busybox; head -n1 /etc/passwd'
    ok
    [ "${lines[0]}" = "$(id -u "$bob")" ]
    [[ ${lines[1]} == "$bob:"* ]]
}

@test "the exit code of the command is srun's" {
    box sh -c 'exit 42'
    [ "$status" = 42 ]
}

@test "root may use containers too" {
    run --separate-stderr srun --quiet --chdir=/ --container-image="$R#busybox" sh -c 'id -u; grep PRETTY /etc/os-release'
    says "$(printf '0\nPRETTY_NAME="Busybox in a container"')"
}
