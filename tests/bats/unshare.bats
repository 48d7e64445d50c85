# --container-unshare: net, ipc and uts namespaces.

setup() { load common; }

# apart KIND...: the container's namespaces of these kinds are not the host's, the others of the three are.
apart() {
    local kind
    for kind in net ipc uts; do
        box --container-unshare="$(IFS=,; echo "$*")" readlink "/proc/self/ns/$kind"
        ok
        case " $* " in
            *" $kind "*) [ "$output" != "$(readlink "/proc/self/ns/$kind")" ] || { show; return 1; } ;;
            *) [ "$output" = "$(readlink "/proc/self/ns/$kind")" ] || { show; return 1; } ;;
        esac
    done
}

@test "none without the option" {
    local kind
    for kind in net ipc uts; do
        box readlink "/proc/self/ns/$kind"
        says "$(readlink "/proc/self/ns/$kind")"
    done
}

@test "each alone" {
    apart net
    apart ipc
    apart uts
}

@test "all together" { apart net ipc uts; }

@test "net: the loopback is up, and nothing else is there" {
    box --container-unshare=net sh -c 'tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " "; nc -l -p 7777 >/tmp/got & until grep -q :1E61 /proc/net/tcp*; do usleep 10000; done; echo hello | nc 127.0.0.1 7777; wait; cat /tmp/got'
    says "$(printf 'lo\nhello')"
}

@test "net: all tasks of a step share it" {
    job -n3 --container-image="$R#busybox" --container-unshare=net readlink /proc/self/ns/net
    ok
    [ "$(sort -u <<<"$output" | wc -l)" = 1 ] || { show; false; }
}

@test "ipc: /dev/shm is the container's own" {
    local file=/dev/shm/pyxis-host-$BATS_TEST_NUMBER
    : >"$file"
    box sh -c "test -e $file"
    ok
    box --container-unshare=ipc sh -c "test ! -e $file && echo x >$file && df /dev/shm | tail -n1 | cut -d' ' -f1"
    says tmpfs
    [ ! -s "$file" ]
    rm "$file"
}

@test "the name of the host stays what it is" {
    box --container-unshare=uts hostname
    says "$(hostname)"
}

@test "PYXIS_CONTAINER_UNSHARE" {
    box PYXIS_CONTAINER_UNSHARE=net readlink /proc/self/ns/net
    ok
    [ "$output" != "$(readlink /proc/self/ns/net)" ]
}

@test "an unknown namespace is refused before the job starts" {
    box --container-unshare=net,pid true
    fails 'unknown namespace "pid"'
}
