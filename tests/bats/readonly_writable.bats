# --container-readonly, --container-writable

setup() { load common; }

@test "the root file system is read-only by default" {
    box sh -c 'touch /x || touch /usr/x || echo x >>/etc/os-release'
    dies "Read-only file system"
    box --container-readonly touch /x
    dies "Read-only file system"
}

@test "/tmp, /run and /dev/shm can be written all the same" {
    job --container-image="$R#library/debian:12" sh -c \
        'for d in /tmp /run /var/run /var/lock /dev/shm; do echo x >$d/pyxis-x || exit; rm $d/pyxis-x; done; echo done'
    says done
}

@test "writable: make, change, remove, rename, link" {
    job --container-image="$R#shapes" --container-writable sh -ec '
        touch /x; mkdir -p /new/dir; echo more >>/w/kept; cat /w/kept; rm -r /w/opaque; mv /w/becomes-dir /w/moved
        ln /f/one /f/four; ln -s x /link; chmod 4711 /w/replaced; rm /bin/vi; [ ! -e /w/opaque ]; cat /w/moved/inside
        mkdir /w/opaque; ls -A /w/opaque; stat -c %h /f/four'
    # Two: overlayfs breaks hard links of the image when one of them is changed. Unpacked files are what they are.
    local links=2
    ! images_are_unpacked || links=4
    says "$(printf '%s\n' kept more inside $links)"
}

@test "writable: all tasks of a node see it" {
    job -n2 --container-image="$R#busybox" --container-writable sh -c \
        'if [ $SLURM_LOCALID = 0 ]; then echo hello >/x; else until grep -s hello /x; do usleep 10000; done; fi'
    says hello
}

@test "writable: gone with the step, and never in the shared image" {
    box --container-writable sh -c 'echo spoiled >/etc/os-release; touch /spoiled; rm /bin/vi; echo $?'
    says 0
    box sh -c 'grep PRETTY /etc/os-release; ls / | grep spoiled; test -L /bin/vi && echo vi'
    says "$(printf 'PRETTY_NAME="Busybox in a container"\nvi')"
}

@test "both at once" {
    box --container-writable --container-readonly echo ran
    refused writable readonly
}

@test "the environment's words for yes and no" {
    local word
    for word in 1 true yes y; do
        job PYXIS_CONTAINER_WRITABLE=$word --container-image="$R#busybox" touch /x
        ok
    done
    for word in 0 false no n; do
        job PYXIS_CONTAINER_READONLY=$word --container-image="$R#busybox" --container-writable touch /x
        ok
    done
    job PYXIS_CONTAINER_WRITABLE=1 --container-image="$R#busybox" --container-readonly touch /x
    dies "Read-only file system"
    job PYXIS_CONTAINER_WRITABLE=maybe --container-image="$R#busybox" echo ran
    fails PYXIS_CONTAINER_WRITABLE
}
