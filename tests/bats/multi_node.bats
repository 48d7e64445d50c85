# Steps over two nodes.

setup() { load common; }

@test "every task of every node runs in the container" {
    job -N2 --ntasks-per-node=2 --container-image="$R#busybox" sh -c 'grep -h PRETTY /etc/os-release; echo $SLURMD_NODENAME'
    ok
    [ "$(grep -c Busybox <<<"$output")" = 4 ]
    [ "$(grep -c '^n1$' <<<"$output")" = 2 ]
    [ "$(grep -c '^n2$' <<<"$output")" = 2 ]
}

@test "each node has namespaces of its own" {
    job -N2 --ntasks-per-node=2 --container-image="$R#busybox" readlink /proc/self/ns/mnt
    ok
    [ "$(sort -u <<<"$output" | wc -l)" = 2 ] || { show; false; }
}

@test "a failing import is told once per node" {
    job -N2 -n8 --container-image="$R#no/such/image" echo ran
    [ "$status" != 0 ]
    [ "$output" = "" ]
    [ "$(pyxis_errors | grep -c "failed to import docker image: $R#no/such/image")" = 2 ] || { show; false; }
}

@test "two steps of one job at once" {
    run --separate-stderr as "$alice" salloc --quiet -N2 -n4 sh -c "
        srun --quiet -N2 -n2 --container-image='$R#busybox' grep -h PRETTY /etc/os-release & a=\$!
        srun --quiet -N2 -n2 --overlap --container-image='$R#rich' only-here & b=\$!
        wait \$a && wait \$b"
    ok
    [ "$(grep -c Busybox <<<"$output")" = 2 ]
    [ "$(grep -c 'from the image' <<<"$output")" = 2 ]
}
