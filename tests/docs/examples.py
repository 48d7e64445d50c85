#!/usr/bin/python3
"""Runs the commands of a page.

`examples.py PAGE [KIND]`, in the directory and as the user who runs them; of the examples only those of this kind, of a cluster with
GPUs for instance. Prints what differs; exits 1 if anything does, or if there is no example.

- In blocks of the language `console` (`console KIND`): what stands behind "$ ", with the lines below it as the output that is expected.
  "..." in a line stands for any text, and as a line for any lines. Where all of it is "..." the command must succeed.
- In tables with the columns `before` and `after` (`before (KIND)`): the first words in code of both cells are commands that print the same.
- Blocks that begin with "#!/bin/bash" are job scripts. Those of a section print the same.

Output is both streams, without what pyxis tells of an import and Slurm of waiting and exit codes,
and without the containers that other jobs have kept. Images of public registries are those of the registry in TEST_REGISTRY.
"""

import os
import re
import subprocess
import sys
import tempfile

# The names that pages use, and what stands for them in the test registry.
IMAGES = {
    "debian:12": "library/debian:12",
    "app:1.0": "rich",
    "no-such-image": "no-such-image",
    "nvcr.io#nvidia/pytorch:24.10-py3": "nvidia/pytorch:24.10-py3",
    "registry.example.com/shared/debian:12": "busybox",
}
NAMES = ("pyxis", "enroot", "singularity", "apptainer")
# Stands in for srun and sbatch: the images.
SLURM = """#!/bin/sh
for word; do
    shift
    case $word in
%s
    esac
    set -- "$@" "$word"
done
[ "$PYXIS_CONTAINER_IMAGE" != debian:12 ] || PYXIS_CONTAINER_IMAGE=$TEST_REGISTRY#library/debian:12
exec /usr/bin/%s "$@"
"""
# Stands in for the command and its names.
NAME = """#!/bin/sh
for word; do
    shift
    case $word in
        debian:12) word=$TEST_REGISTRY#library/debian:12 ;;
        docker://debian:12) word=docker://$TEST_REGISTRY#library/debian:12 ;;
    esac
    set -- "$@" "$word"
done
exec "$(dirname "$0")/names/%s" "$@"
"""
NOISE = re.compile(
    r"pyxis_\S+$|pyxis: (importing|imported) docker image: |pyxis: importing: |srun: job \d+ "
    r"|srun: error: \w+: task 0: Exited with ")
# What the one way tells and the other does not.
PROGRESS = re.compile(r"^(\[INFO\]|INFO:   |pyxis: exported container) .*\n", re.MULTILINE)


def blocks(text):
    """(heading, line number, language and kind, lines) of what is fenced on a page."""
    heading, block = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if block:
                yield block
            block = None if block else (heading, number, line[3:].split(), [])
        elif block:
            block[3].append(line)
        elif line.startswith("#"):
            heading = line


def examples(text, kind):
    """(line number, command, expected lines)"""
    found = []
    for _, start, language, lines in blocks(text):
        if language == ["console"] + kind:
            for number, line in enumerate(lines, start + 1):
                if line.startswith("$ "):
                    found.append((number, line[2:], []))
                else:
                    found[-1][2].append(line)
    return found


def pairs(text, kind):
    """(line number, command before, command after)"""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split(" | ")
        if re.match(r"\| before( \(\w+\))? \| after \|$", line):
            inside = re.findall(r"\((\w+)\)", line) == kind
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("| ---"):
            yield number, *(re.match(r"(?:\| )?`([^`]+)`", cell).group(1) for cell in cells)


def scripts(text):
    """(line number, the job scripts of a section)"""
    found = {}
    for heading, number, _, lines in blocks(text):
        if lines[0] == "#!/bin/bash":
            found.setdefault(heading, (number, []))[1].append("\n".join(lines) + "\n")
    return found.values()


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
    """Both streams, as they come, and the exit code. `#SBATCH` lines name images too."""
    for image, here in IMAGES.items():
        for written in (image, image.replace("#", "\\#")):
            there = f"{env['TEST_REGISTRY']}#{here}".replace("#", "\\#")
            command = command.replace("#SBATCH --container-image=" + written, "#SBATCH --container-image=" + there)
    run = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env=env, timeout=300, check=False)
    lines = run.stdout.decode(errors="replace").splitlines(keepends=True)
    # From 26.05 on srun shows what a node's step says with the time in place of its name.
    lines = [re.sub(r"^\[[-0-9T:.]+\] error: ", "slurmstepd: error: ", line) for line in lines]
    text = "".join(line for line in lines if not NOISE.search(line))
    return text.replace(f"docker://{env['TEST_REGISTRY']}#library/debian:12", "docker://debian:12"), run.returncode


def submit(script, env):
    """What a batch script writes, in the order of the alphabet, since tasks run side by side; and sbatch's exit code."""
    said, code = output(f"cat >job.sh <<'END'\n{script}END\nsbatch --quiet --wait --output=job.out job.sh", env)
    if code == 0:
        said, code = output("sort job.out", env)
    return said, code


def stand_ins(directory):
    """Programs that stand before the real ones."""
    def program(name, text):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(file.name, 0o755)

    cases = "\n".join(f"        '--container-image={image}') word=--container-image=$TEST_REGISTRY#{here} ;;"
                      for image, here in IMAGES.items())
    for name in ("srun", "sbatch"):
        program(name, SLURM % (cases, name))
    os.mkdir(os.path.join(directory, "names"))
    for name in NAMES:
        os.symlink("/usr/libexec/pyxis/worker", os.path.join(directory, "names", name))
        program(name, NAME % name)


def main(page, *kind):
    with open(page, encoding="utf-8") as file:
        text = file.read()
    failed, count = False, 0

    def check(good, number, what):
        nonlocal failed, count
        count += 1
        if not good:
            failed = True
            print(f"{page}, line {number}: {what}")

    with tempfile.TemporaryDirectory() as programs:
        stand_ins(programs)
        env = dict(os.environ, PATH=f"{programs}:/usr/bin:/bin:/usr/sbin")
        for number, command, expected in examples(text, list(kind)):
            got, code = output(command, env)
            good = pattern(expected).fullmatch(got) and (code == 0 or any(line != "..." for line in expected))
            check(good, number, f"$ {command}\nexpected:\n" + "\n".join(expected) + f"\ngot ({code}):\n{got}")
        for number, before, after in pairs(text, list(kind)):
            (said, code), (says, now) = output(before, env), output(after, env)
            said, says = PROGRESS.sub("", said), PROGRESS.sub("", says)
            check(said == says and said and code == now == 0, number, f"{before}\n{said}{code}\n{after}\n{says}{now}")
        # All of them are for nodes with GPUs.
        for number, of_section in scripts(text) if kind else ():
            said = [submit(script, env) for script in of_section]
            check(all(one == said[0] and one[0] and one[1] == 0 for one in said), number, f"job scripts\n{said}")
    print(f"{count} examples")
    return failed or not count


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
