# The plugin as a shared object: what it shows to the process that loads it.

setup() {
    load common
    read -r _ plugin _ <"$test_state/plugstack.conf"
    [ -s "$plugin" ]
    [ -s /usr/libexec/pyxis/worker ]
}

@test "exports exactly what Slurm looks for" {
    local symbol
    while read -r symbol; do
        case $symbol in
            plugin_name | plugin_type | plugin_version | spank_plugin_version | slurm_spank_*) ;;
            *) echo "unexpected export: $symbol"; false ;;
        esac
    done < <(nm -D --defined-only "$plugin" | awk '{ print $3 }' | sed 's/@.*//')
    for symbol in plugin_name plugin_type plugin_version \
        slurm_spank_{init,init_post_opt,task_init,task_exit,job_epilog,exit}; do
        nm -D --defined-only "$plugin" | grep -qw "$symbol" || { echo "missing: $symbol"; false; }
    done
}

@test "needs no library beyond the C library" {
    local library
    while read -r library; do
        case $library in
            libc.so.6 | libm.so.6 | libgcc_s.so.1 | libpthread.so.0 | libdl.so.2 | ld-linux-*) ;;
            *) echo "unexpected library: $library"; false ;;
        esac
    done < <(readelf -d "$plugin" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
}

@test "no other container tool is in the path of a job" {
    # Whatever would be started by name is not there to be found.
    local tool
    for tool in enroot squashfuse unsquashfs mksquashfs newuidmap; do
        [ "$(strings -n 6 "$plugin" /usr/libexec/pyxis/worker | grep -cx "/usr/bin/$tool" || true)" = 0 ]
    done
}

@test "the worker is the command" {
    cmp /usr/bin/pyxis /usr/libexec/pyxis/worker
}
