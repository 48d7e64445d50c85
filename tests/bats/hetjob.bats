# Heterogeneous jobs. One allocation is used for all checks of a test: Slurm takes its time to make one.

setup() { load common; }

# in_two_components SCRIPT: with an allocation of two components, one task each.
in_two_components() { run --separate-stderr as "$alice" timeout 300 salloc --quiet -n1 : -n1 sh -c "$1"; }

@test "both components in the container; each as a step of its own in another one; one in none" {
    # shellcheck disable=SC2016
    in_two_components "
        srun --quiet --container-image='$R#busybox' sh -c 'echo both \$SLURM_PROCID; grep -h PRETTY /etc/os-release' : \
            --container-image='$R#busybox' sh -c 'echo both \$SLURM_PROCID; grep -h PRETTY /etc/os-release'
        srun --quiet --het-group=0 --container-image='$R#busybox' sh -c 'echo first; test -e /opt/bin || echo no rich' & first=\$!
        srun --quiet --het-group=1 --container-image='$R#rich' sh -c 'echo second; only-here'
        wait \$first; srun --quiet --het-group=1 sh -c 'grep -c Busybox /etc/os-release || echo host'"
    ok
    [ "$(sort <<<"$output")" = "$(sort <<<'both 0
both 1
PRETTY_NAME="Busybox in a container"
PRETTY_NAME="Busybox in a container"
first
no rich
second
from the image
0
host')" ] || { show; false; }
}

@test "different containers in one step are refused, as Slurm would give all components the last one" {
    in_two_components "srun --quiet --container-image='$R#busybox' echo ran : --container-image='$R#rich' echo ran; echo code \$?
        srun --quiet --container-image='$R#busybox' cat /etc/os-release : cat /etc/os-release; echo code \$?"
    out_has "code 1"
    out_lacks ran
    err_has "srun: error: pyxis: the components of this step want different containers"
    # One component's options are everybody's: with a word about it.
    err_has "pyxis: all components of a heterogeneous step get the container of one"
    [ "$(grep -c 'Busybox in a container' <<<"$output")" = 2 ] || { show; false; }
}
