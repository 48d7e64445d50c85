# Parallel programs: srun --mpi=pmix with Open MPI, srun --mpi=pmi2 with MPICH. Debian's Open MPI speaks PMIx only, its MPICH
# PMI-1, which the pmi2 plugin of Slurm serves too.

setup() { load common; }

# Both nodes are this machine; with an IPC namespace for each they do not meet in /dev/shm.
# mpi TYPE IMAGE ARGUMENTS...: the test program.
mpi() {
    local type=$1 image=$2
    shift 2
    job OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_btl=self,vader,tcp --mpi="$type" --container-image="$R#mpi:$image" "$@" \
        sh -c 'exec mpi-test $SLURMD_NODENAME'
}

# ranks NODE COUNT TOTAL: so many of all are on that node, have found all others, and read each other's memory.
ranks() {
    local sum=$(($3 * ($3 - 1) / 2))
    [ "$(grep -c "of $3 on $1 sum $sum neighbours $(($2 - 1)) cma yes" <<<"$output")" = "$2" ] || { show; return 1; }
}

@test "pmix: the ranks of two nodes find each other, and those of a node share memory" {
    needs_pmix
    mpi pmix openmpi -N2 --ntasks-per-node=3 --container-unshare=ipc
    ok
    ranks n1 3 6
    ranks n2 3 6
}

@test "pmi2: the ranks of two nodes find each other, and those of a node share memory" {
    mpi pmi2 mpich -N2 --ntasks-per-node=3 --container-unshare=ipc
    ok
    ranks n1 3 6
    ranks n2 3 6
}

@test "pmi2 as root inside, and pmix with the home mounted" {
    needs_pmix
    mpi pmix openmpi -w n1 -n2 --container-mount-home
    ok
    ranks n1 2 2
    mpi pmi2 mpich -w n1 -n2 --container-remap-root --container-mount-home
    ok
    ranks n1 2 2
}

@test "pmix: the server's directories are there, and a client is told the modules" {
    needs_pmix
    job -w n1 -n1 --mpi=pmix --container-image="$R#busybox" sh -c '
        # Where the server shares its data in files: not so from PMIx 5 on.
        case $PMIX_GDS_MODULE in ds*) ls "$PMIX_SERVER_TMPDIR" | grep -q dstor || exit 1 ;; esac
        test -d "$PMIX_SERVER_TMPDIR" && test -w "$PMIX_SERVER_TMPDIR" &&
        [ "$PMIX_MCA_gds" = "$PMIX_GDS_MODULE" ] && [ "$PMIX_MCA_psec" = "$PMIX_SECURITY_MODE" ] && echo $PMIX_RANK'
    says 0
    job PMIX_MCA_gds=mine -w n1 -n1 --mpi=pmix --container-image="$R#busybox" sh -c 'echo $PMIX_MCA_gds'
    says mine
}

@test "pmix: the clients' directory is there, also where the job puts it" {
    needs_pmix
    local dir
    dir=$(alice_dir pmix)
    job SLURM_PMIX_TMPDIR="$dir" -w n1 -n1 --mpi=pmix --container-image="$R#busybox" sh -c "ls -d $dir/spmix_appdir_*"
    ok
    out_has "$dir/spmix_appdir_${alice_uid}_"
    rm -rf "$dir"
}

@test "without --mpi there is nothing of it" {
    box sh -c 'env | grep -c ^PMI; ls -d /var/lib/pyxis-test/*/pmix* 2>/dev/null'
    [ "$output" = 0 ] || { show; false; }
}
