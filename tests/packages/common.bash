# What tests of packages share. They set $DEB, the package, $NAMES_DEB, that of other names, if they want it, and $debian, the root directory that it is installed in.
# shellcheck shell=bash disable=SC2154

# inside SCRIPT: in a copy of $debian, with the package at /root/pyxis.deb, the other at $names. What it prints is in $output.
inside() {
    cp "$DEB" "$root/target/pyxis-test.deb"
    cp "${NAMES_DEB:-$DEB}" "$root/target/pyxis-names-test.deb"
    run --separate-stderr "$root/tests/cluster/in-root" "$debian" bash -euc "
        cp target/pyxis-test.deb /root/pyxis.deb
        names=/root/names.deb
        cp target/pyxis-names-test.deb \$names
        cd /root
        # What a small one does not have.
        install() { dpkg --force-depends -i /root/pyxis.deb >/root/log 2>&1 || { cat /root/log; return 1; }; }
        $1"
    rm -f "$root"/target/pyxis{,-names}-test.deb
}
shows() { printf -- '-- status %s --\n%s\n-- stderr --\n%s\n' "$status" "$output" "$stderr"; }
says() { { [ "$status" = 0 ] && [ "$output" = "$1" ]; } || { shows; return 1; }; }
