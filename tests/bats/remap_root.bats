# --container-remap-root, and what a user may do with and without it.

setup() { load common; }

# The user's id in the namespace above: where processes of his read images he is root of one in between.
above() { if kernel_mounts; then echo "$1"; else echo 0; fi; }

@test "plain: the user is himself" {
    box sh -c 'id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s " "; id -un'
    says "$(printf '%s\n' "$alice_uid" "$(id -g $alice)" " $alice_uid $(above $alice_uid) 1" \
        " $(id -g $alice) $(above "$(id -g $alice)") 1" "$alice")"
}

@test "remapped: root inside, the user outside" {
    local work
    work=$(alice_dir remap)
    box --container-remap-root --container-mounts="$work:/w" sh -c \
        'id -u; id -g; cat /proc/self/uid_map | tr -s " "; id -un; touch /w/made; stat -c %u /w/made'
    says "$(printf '%s\n' 0 0 " 0 $(above $alice_uid) 1" root 0)"
    [ "$(stat -c %U "$work/made")" = "$alice" ]
    rm -rf "$work"
}

@test "PYXIS_CONTAINER_REMAP_ROOT and --no-container-remap-root" {
    job PYXIS_CONTAINER_REMAP_ROOT=1 --container-image="$R#busybox" id -u
    says 0
    job PYXIS_CONTAINER_REMAP_ROOT=1 --container-image="$R#busybox" --no-container-remap-root id -u
    says "$alice_uid"
    box --container-remap-root --no-container-remap-root echo ran
    refused remap-root
}

@test "all files belong to root inside when remapped" {
    job --container-remap-root --container-image="$R#shapes" sh -c "$not_owned; cat /f/secret"
    says x
}

@test "no capability, no new privileges, a filter" {
    box grep -E '^(CapEff|CapPrm|CapInh|CapAmb|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
    ok
    [ "$(grep -c '0000000000000000' <<<"$output")" = 5 ] || { show; false; }
    out_has "$(printf 'NoNewPrivs:\t1')"; out_has "$(printf 'Seccomp:\t2')"
}

@test "remapped: none of the capabilities that reach beyond the one mapped id" {
    box --container-remap-root sh -c 'grep CapBnd /proc/self/status'
    ok
    # CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP SYS_CHROOT MKNOD SETFCAP
    local allowed=$((1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 18 | 1 << 27 | 1 << 31))
    [ $((0x${output##*[[:space:]]} & ~allowed)) = 0 ] || { show; false; }
}

@test "mounting, unmounting and setting the host name are refused in both modes" {
    local mode
    for mode in --container-remap-root --no-container-remap-root; do
        box $mode --container-writable sh -c 'mount -t tmpfs x /mnt 2>/dev/null && echo mounted; umount /proc 2>/dev/null && echo unmounted
            hostname evil 2>/dev/null && echo renamed; mknod /x c 1 3 2>/dev/null && cat </x >/dev/null 2>&1 && echo device; echo end'
        says end
    done
}

@test "chown and friends succeed without effect in both modes" {
    local mode
    for mode in --container-remap-root --no-container-remap-root; do
        box $mode sh -c 'touch /tmp/x && chown 4242:4343 /tmp/x && chgrp 5 /tmp/x && chown -h 1:1 /tmp/x && stat -c "%u:%g" /tmp/x'
        ok
        [ "$output" = "0:0" ] || [ "$output" = "$alice_uid:$(id -g $alice)" ] || { show; false; }
    done
}

@test "supplementary groups stay effective" {
    install -d -o root -g pyxis-team -m 0770 "$test_state/team"
    local mode
    for mode in --container-remap-root --no-container-remap-root; do
        box $mode --container-mounts="$test_state/team:/team" sh -c 'echo x >/team/mine && rm /team/mine && echo done'
        says done
    done
}

@test "root outside of the container stays out of reach" {
    box --container-remap-root sh -c 'cat /proc/1/environ >/dev/null 2>&1 && echo read; ls /proc/1/root/root 2>/dev/null && echo seen
        kill -0 1 2>/dev/null && echo killed; echo end'
    says end
}

@test "apt-get installs a package whose scripts give files to other users" {
    local work
    work=$(alice_dir deb)
    mkdir -p "$work/tree/DEBIAN" "$work/tree/opt/sample"
    printf 'Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: a sample\n' >"$work/tree/DEBIAN/control"
    printf '#!/bin/sh\nset -e\nchown games:games /opt/sample/file\nchgrp mail /opt/sample\ninstall -d -o games -g games /opt/sample/new\n' >"$work/tree/DEBIAN/postinst"
    chmod 755 "$work/tree/DEBIAN/postinst"
    echo installed >"$work/tree/opt/sample/file"
    dpkg-deb --build --root-owner-group "$work/tree" "$work/sample.deb" >/dev/null
    chown -R "$alice:" "$work"
    job --container-image="$R#library/debian:12" --container-writable --container-remap-root --container-mounts="$work:/w" \
        sh -c 'apt-get install -y /w/sample.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }; cat /opt/sample/file; dpkg -s sample | grep ^Status'
    says "$(printf 'installed\nStatus: install ok installed')"
    rm -rf "$work"
}
