# The packages that are published, of `make release-packages`, for glibc 2.28 and newer: they run on the oldest system that Debian's
# mirror has.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    export root=$BATS_TEST_DIRNAME/../..
    # shellcheck source=tests/cluster/common.sh disable=SC1091
    . "$root/tests/cluster/common.sh"
    export debian=$cache/debian-11
    debian_tree bullseye "$debian"
    DEB=$(echo "$root"/target/release-packages/pyxis_*.deb) RPM=$(echo "$root"/target/release-packages/pyxis-[0-9]*.rpm)
    export DEB RPM
}
setup() { load common; }

# newest_symbol FILE
newest_symbol() { readelf --wide --dyn-syms "$1" | grep -o '@GLIBC_[0-9.]*' | sort -Vu | tail -n 1; }

@test "no symbol of a C library newer than 2.28, and nothing beside the C library" {
    local file
    dpkg-deb -x "$DEB" "$BATS_TEST_TMPDIR"
    for file in "$BATS_TEST_TMPDIR"/usr/libexec/pyxis/worker "$BATS_TEST_TMPDIR"/usr/lib/*/slurm-wlm/spank_pyxis.so; do
        [ "$(printf '%s\n@GLIBC_2.28\n' "$(newest_symbol "$file")" | sort -V | tail -n 1)" = @GLIBC_2.28 ]
        [ "$(readelf -d "$file" | grep NEEDED |
            grep -cvE '\[(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|ld-linux-.*)\]')" = 0 ]
    done
}

@test "the package says so" {
    dpkg-deb -f "$DEB" Depends | grep -qE 'libc6 \(>= 2\.(1[0-9]|2[0-8])\)'
    [ "$(rpm -qp --requires "$RPM" | grep -cE 'GLIBC_2\.(29|[3-9][0-9])')" = 0 ]
}

@test "on the oldest system the package installs, the command runs, and the plugin's symbols are all there" {
    inside 'dpkg -i pyxis.deb >/dev/null; pyxis --version | cut -d" " -f1; LD_BIND_NOW=1 ldd -r /usr/lib/*/slurm-wlm/spank_pyxis.so 2>&1'
    [ "$status" = 0 ] && [ "${lines[0]}" = pyxis ] || { shows; false; }
    [[ $output != *"undefined symbol"* && $output != *"not found"* ]] || { shows; false; }
}
