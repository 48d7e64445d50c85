/* What a parallel program needs of its container: the ranks find each other over all nodes, and those of a node may
 * reach into each other's memory (cross memory attach), which MPI libraries use for large messages. */
#define _GNU_SOURCE
#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Where a rank runs, and what the others may read there. */
struct place {
    char node[64];
    pid_t pid;
    const int *secret;
};

static const char *read_secret(const struct place *of, int expected)
{
    int found = -1;
    struct iovec here = {&found, sizeof(found)};
    struct iovec there = {(void *)of->secret, sizeof(found)};

    if (process_vm_readv(of->pid, &here, 1, &there, 1, 0) != sizeof(found))
        return strerror(errno);
    return found == expected ? "yes" : "wrong";
}

int main(int argc, char **argv)
{
    int rank, size, sum = 0, neighbours = 0;
    const char *reached = "alone";
    static struct place all[256];
    struct place own = {"", getpid(), NULL};
    int secret;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size > 256)
        return 1;
    /* Where Yama restricts tracing to descendants, as MPI libraries do. */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    secret = 1000 + rank;
    own.secret = &secret;
    strncpy(own.node, argc > 1 ? argv[1] : "", sizeof(own.node) - 1);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allgather(&own, sizeof(own), MPI_BYTE, all, sizeof(own), MPI_BYTE, MPI_COMM_WORLD);
    for (int other = 0; other < size; other++) {
        if (other == rank || strcmp(all[other].node, own.node) != 0)
            continue;
        neighbours++;
        reached = read_secret(&all[other], 1000 + other);
        if (strcmp(reached, "yes") != 0)
            break;
    }
    /* Nobody ends while his memory is read. */
    MPI_Barrier(MPI_COMM_WORLD);
    printf("rank %d of %d on %s sum %d neighbours %d cma %s\n", rank, size, own.node, sum, neighbours, reached);
#ifdef WITHOUT_FINALIZE
    fflush(stdout);
    _exit(0);
#endif
    MPI_Finalize();
    return 0;
}
