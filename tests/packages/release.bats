# What is published, for glibc 2.28 and newer ($RELEASE: where packaging/compile has put it): it runs on the oldest system that Debian's
# mirror has.
# shellcheck shell=bash disable=SC2154

setup_file() {
    export root=$BATS_TEST_DIRNAME/../..
    # shellcheck source=tests/cluster/common.sh disable=SC1091
    . "$root/tests/cluster/common.sh"
    export oldest=$cache/debian-11
    [ -e "$oldest" ] || { rm -rf "$oldest.tmp"; debootstrap --variant=minbase bullseye "$oldest.tmp" >/dev/null; mv "$oldest.tmp" "$oldest"; }
}

# newest_symbol FILE
newest_symbol() { readelf --wide --dyn-syms "$1" | grep -o '@GLIBC_[0-9.]*' | sort -Vu | tail -n 1; }
# inside SCRIPT: in a copy of that system, with the build and the package below /root.
inside() {
    mkdir -p "$root/target/release-test"
    cp "$RELEASE/pyxis" "$RELEASE/libspank_pyxis.so" "$root"/target/release-packages/*.deb "$root/target/release-test/"
    run "$root/tests/cluster/in-root" "$oldest" sh -euc "cp target/release-test/* /root/; cd /root; $1"
    rm -rf "$root/target/release-test"
}

@test "no symbol of a C library newer than 2.28, and nothing beside the C library" {
    local file
    for file in pyxis libspank_pyxis.so; do
        [ "$(printf '%s\n@GLIBC_2.28\n' "$(newest_symbol "$RELEASE/$file")" | sort -V | tail -n 1)" = @GLIBC_2.28 ]
        [ "$(readelf -d "$RELEASE/$file" | grep NEEDED |
            grep -cvE '\[(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|ld-linux-.*)\]')" = 0 ]
    done
}

@test "the package says so" {
    dpkg-deb -f "$root"/target/release-packages/*.deb Depends | grep -q 'libc6 (>= 2\.[12][0-9])'
    [ "$(rpm -qp --requires "$root"/target/release-packages/*.rpm | grep -cE 'GLIBC_2\.(29|[3-9][0-9])')" = 0 ]
}

@test "on the oldest system the package installs, the command runs, and the plugin's symbols are all there" {
    inside 'dpkg -i ./*.deb >/dev/null; pyxis --version | cut -d" " -f1; LD_BIND_NOW=1 ldd -r /usr/lib/*/slurm-wlm/spank_pyxis.so'
    [ "$status" = 0 ] && [ "${lines[0]}" = pyxis ] || { echo "$output"; false; }
    [[ $output != *"undefined symbol"* && $output != *"not found"* ]] || { echo "$output"; false; }
}
