#!/usr/bin/python3
"""Runs the examples of a page: in blocks of the language `console`, what stands behind "$ ", with the lines below it as the output
that is expected.

`examples.py PAGE`, in the directory and as the user who runs them. "..." in a line stands for any text, and as a line for any
lines. Output is both streams, without what pyxis tells of an import and Slurm of waiting and exit codes,
and without the containers that other jobs have kept. Images of public registries are those of the test registry:
variables IMAGE_debian=..., IMAGE_app=... say where. Prints what differs; exits 1 if anything does, or if there is no example.
"""

import os
import re
import subprocess
import sys
import tempfile

# Stand in for the names of the command.
NAMES = ("enroot", "singularity", "apptainer")
NAME = """#!/bin/sh
for word; do
    shift
    [ "$word" != docker://debian:12 ] || word=docker://$IMAGE_debian
    set -- "$@" "$word"
done
exec "$(dirname "$0")/names/%s" "$@"
"""
NOISE = re.compile(r"pyxis_\S+$|pyxis: (importing|imported) docker image: |pyxis: importing: |srun: job \d+ |srun: error: \w+: task 0: Exited with ")
# Stands in for srun: the images, and no lines about waiting for nodes.
SRUN = """#!/bin/sh
for word; do
    shift
    case $word in
        --container-image=debian:12) word=--container-image=$IMAGE_debian ;;
        --container-image=app:1.0) word=--container-image=$IMAGE_app ;;
        --container-image=no-such-image) word=--container-image=$IMAGE_none ;;
    esac
    set -- "$@" "$word"
done
[ "$PYXIS_CONTAINER_IMAGE" != debian:12 ] || PYXIS_CONTAINER_IMAGE=$IMAGE_debian
exec /usr/bin/%s "$@"
"""


def examples(text):
    """(line number, command, expected lines) of a page."""
    found, block = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            block = None if block is not None else line[3:]
        elif block == "console" and line.startswith("$ "):
            found.append((number, line[2:], []))
        elif block == "console" and found:
            found[-1][2].append(line)
    return found


def pattern(expected):
    """A regular expression for the expected output."""
    lines = []
    for line in expected:
        if line == "...":
            lines.append("(?:.*\n)*?")
        else:
            lines.append(".*".join(map(re.escape, line.split("..."))) + "\n")
    return re.compile("".join(lines))


def output(command, env):
    """Both streams, as they come. `#SBATCH` lines name images too."""
    command = command.replace("#SBATCH --container-image=debian:12", "#SBATCH --container-image=" + env["IMAGE_debian"].replace("#", "\\#"))
    run = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env=env, timeout=300, check=False)
    lines = run.stdout.decode(errors="replace").splitlines(keepends=True)
    # From 26.05 on srun shows what a node's step says with the time in place of its name.
    lines = [re.sub(r"^\[[-0-9T:.]+\] error: ", "slurmstepd: error: ", line) for line in lines]
    text = "".join(line for line in lines if not NOISE.search(line))
    return text.replace("docker://" + env["IMAGE_debian"], "docker://debian:12")


def main(page):
    with open(page, encoding="utf-8") as file:
        found = examples(file.read())
    failed = not found
    with tempfile.TemporaryDirectory() as programs:
        for name in ("srun", "sbatch"):
            with open(os.path.join(programs, name), "w", encoding="utf-8") as file:
                file.write(SRUN % name)
            os.chmod(file.name, 0o755)
        os.mkdir(os.path.join(programs, "names"))
        for name in NAMES:
            os.symlink("/usr/libexec/pyxis/worker", os.path.join(programs, "names", name))
            with open(os.path.join(programs, name), "w", encoding="utf-8") as file:
                file.write(NAME % name)
            os.chmod(file.name, 0o755)
        env = dict(os.environ, PATH=f"{programs}:/usr/bin:/bin:/usr/sbin")
        for number, command, expected in found:
            got = output(command, env)
            if not pattern(expected).fullmatch(got):
                failed = True
                print(f"{page}, line {number}: $ {command}\nexpected:\n" + "\n".join(expected) + f"\ngot:\n{got}")
    print(f"{len(found)} examples")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
