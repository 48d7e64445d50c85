"""The benchmarks: lines `BENCH name value unit`.

`bench.py REGISTRY WORK_DIR CODEC_FLOOR`. What is compared runs in turns, and medians are told. Times are of this machine
while nothing else runs.

start_overhead_warm          ms: srun with a container of one layer that is in the store, less bare srun
start_bare, start_container  ms: the two
plugin_load                  ms: what `srun --help`, which reads plugstack.conf and runs nothing, takes longer with the plugin
start_named                  ms: srun with a container that has a name and exists
named_vs_unnamed             its time over that of a container without a name
start_joined                 ms: srun that joins a running container
join_per_task                ms: what one more task costs that enters a container, less one more bare task
start_*_kernel_overhead      ms: the same with an image (pack: of one layer; deep: of 41; file: a file) that the kernel mounts
start_*_fuse_overhead        ms: the same where squashfuse_ll reads it
start_*_vs_pack              ms: what such a start takes longer than that of an image of one layer that the kernel mounts
start_file_sif_vs_its_files  ms: an image that Apptainer has built, against its files without its scripts
gpus_vs_none                 ms: what 8 stand-in GPUs with the libraries, programs and files of a driver add to a start
gpus_libraries               how many libraries that driver has
start_file_*_written         KiB: what a start from a file writes to disks, with all else that the machine writes
file_2g_peak_rss             MiB: memory of our processes while a step reads all of an image file of 2 GiB through squashfuse_ll
phase_*                      ms: where the start spends it, as PYXIS_TRACE tells
many_bare, many_container    ms: srun of 64 tasks on one node, bare and in a container
many_ratio                   the latter over 1.3 times the former and one container's start_overhead_warm
import_cold                  s: `pyxis pull` of the big image into an empty store
import_vs_pipeline           its time over that of skopeo copy, tar x of all layers, mksquashfs -comp zstd level 1
import_peak_rss              MiB: memory of all its processes at once, looked at every 20 ms
import_bytes_written_ratio   bytes that its processes wrote to disk, over the size of the packs
import_cpu_vs_codecs         its CPU time over that of inflate, sha256 and zstd alone, on the same bytes and libraries
save                         s: what --container-save adds to a step that writes 10 MiB into an image of 2 GiB
save_cp                      s: cp of the saved file
save_vs_cp                   the ratio of the two
save_vs_cp_synced            the same with cp and sync of the copy: a saved file is on the disk when srun returns
"""

import contextlib
import glob
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import threading
import time

from measure import measure

STARTS, LOADS, IMPORTS, TASKS, SAVES = 15, 101, 3, 64, 5
# Of the driver, beside those that tests/cluster/gpus makes.
MORE_LIBRARIES = [
    "libnvidia-nscq", "libnvidia-fatbinaryloader", "libnvidia-pkcs11-openssl3", "libnvidia-tileiras", "libnvidia-sandboxutils",
    "libnvidia-ifr", "libnvidia-vulkan-producer", "libGLESv1_CM_nvidia", "libnvidia-cbl",
]
POLICY = "/etc/pyxis/pyxis.toml"


def tell(name, value, unit, digits=1):
    """One line."""
    print(f"BENCH {name} {value:.{digits}f} {unit}", flush=True)


def srun(user, options, trace=False):
    """Milliseconds of one step, and the trace lines that it printed."""
    home = f"/home/{user}"
    variables = ["HOME=" + home, "PATH=/usr/bin:/bin", "SLURM_CONF=" + os.environ["SLURM_CONF"]]
    if trace:
        variables.append("PYXIS_TRACE=1")
    command = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "env", "-i", *variables, "srun", *options]
    begin = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=home, check=False)
    took = (time.monotonic() - begin) * 1000
    if done.returncode != 0:
        raise SystemExit(f"srun failed: {done.stderr}")
    return took, done.stderr


def starts(registry):
    """Warm starts against bare ones."""
    container = [f"--container-image={registry}#busybox", "true"]
    for _ in range(2):
        srun("pyxis-alice", ["true"])
        srun("pyxis-alice", container)
    bare, inside, phases = [], [], {}
    for _ in range(STARTS):
        bare.append(srun("pyxis-alice", ["true"])[0])
        inside.append(srun("pyxis-alice", container)[0])
    for _ in range(STARTS):
        for name, value in trace_phases(srun("pyxis-alice", container, trace=True)[1]).items():
            phases.setdefault(name, []).append(value)
    tell("start_bare", statistics.median(bare), "ms")
    tell("start_container", statistics.median(inside), "ms")
    overhead = statistics.median(inside) - statistics.median(bare)
    tell("start_overhead_warm", overhead, "ms")
    for name, values in phases.items():
        tell(f"phase_{name.replace(' ', '_')}", statistics.median(values), "ms", 2)
    return overhead


def plugin_load(work):
    """The plugin in srun, against an srun that has none."""
    with open(os.environ["SLURM_CONF"], encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("PlugStackConfig=")]
    empty, conf = os.path.join(work, "plugstack.conf"), os.path.join(work, "slurm.conf")
    for path, text in ((empty, ""), (conf, "".join(lines) + f"PlugStackConfig={empty}\n")):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    took = {conf: [], os.environ["SLURM_CONF"]: []}
    for _ in range(LOADS):
        for path, values in took.items():
            begin = time.monotonic()
            done = subprocess.run(["srun", "--help"], env=os.environ | {"SLURM_CONF": path}, capture_output=True, text=True, check=True)
            values.append((time.monotonic() - begin) * 1000)
            if ("--container-image" in done.stdout) != (path != conf):
                raise SystemExit(f"srun --help with {path}: {done.stdout}")
    without, with_it = (statistics.median(values) for values in took.values())
    tell("plugin_load", with_it - without, "ms", 2)


def many_tasks(registry, overhead):
    """Many tasks on one node: they share one container, so it should cost as much as for one."""
    options = ["-O", "-N1", f"-n{TASKS}"]
    bare, inside = [], []
    for _ in range(STARTS):
        bare.append(srun("pyxis-alice", [*options, "true"])[0])
        inside.append(srun("pyxis-alice", [*options, f"--container-image={registry}#busybox", "true"])[0])
    bare, inside = statistics.median(bare), statistics.median(inside)
    tell("many_bare", bare, "ms")
    tell("many_container", inside, "ms")
    tell("many_ratio", inside / (1.3 * bare + overhead), "ratio", 3)


def names(registry):
    """Containers that have a name, and tasks that enter one container."""
    user, image = "pyxis-alice", f"--container-image={registry}#busybox"
    named, joined = "--container-name=bench-kept", "--container-name=bench-running"
    shutil.rmtree(glob.escape(f"/var/lib/pyxis-data/{pwd.getpwnam(user).pw_uid}/pyxis_bench-kept"), ignore_errors=True)
    srun(user, [image, named, "true"])
    fifo = f"/home/{user}/bench-running"
    os.mkfifo(fifo)
    os.chmod(fifo, 0o666)
    with open(fifo, "r+b", buffering=0) as gate:
        holder = threading.Thread(target=srun, args=(user, [image, joined, f"--container-mounts={fifo}:/gate", "sh", "-c", "read -r _ </gate"]))
        holder.start()
        while not glob.glob("/run/pyxis/*/pyxis_bench-running/*"):
            pass
        inside = {"unnamed": [image], "named": [named], "joined": [joined]}
        took = {name: [] for name in inside}
        tasks = {name: [] for name in ("bare 1", "bare 32", "inside 1", "inside 32")}
        for _ in range(STARTS):
            for name, options in inside.items():
                took[name].append(srun(user, [*options, "true"])[0])
            for count in ("1", "32"):
                tasks["bare " + count].append(srun(user, ["-N1", "-n" + count, "true"])[0])
                tasks["inside " + count].append(srun(user, ["-N1", "-n" + count, image, "true"])[0])
        gate.write(b"go\n")
        holder.join()
    os.unlink(fifo)
    middle = {name: statistics.median(values) for name, values in (took | tasks).items()}
    more = {kind: (middle[kind + " 32"] - middle[kind + " 1"]) / 31 for kind in ("bare", "inside")}
    tell("start_named", middle["named"], "ms")
    tell("named_vs_unnamed", middle["named"] / middle["unnamed"], "ratio", 3)
    tell("start_joined", middle["joined"], "ms")
    tell("join_per_task", more["inside"] - more["bare"], "ms", 2)


def trace_phases(stderr):
    """{phase: milliseconds} of the trace line in what srun printed; empty when there is none."""
    for line in stderr.splitlines():
        before, mark, text = line.partition("pyxis: trace: ")
        if mark and not before:
            return {name.removesuffix("_ms"): value for name, value in json.loads(text).items() if name.endswith("_ms")}
    return {}


@contextlib.contextmanager
def policy(text):
    """The site has said this."""
    with open(POLICY, encoding="utf-8") as file:
        before = file.read()
    with open(POLICY, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        yield
    finally:
        with open(POLICY, "w", encoding="utf-8") as file:
            file.write(before)


def small_files(registry):
    """The image of one layer as a file that the kernel mounts, and as one of a user's: with the same compressed blocks."""
    trusted, own = "/var/lib/pyxis-bench-image", "/home/pyxis-alice/bench.sqsh"
    srun("pyxis-alice", [f"--container-image={registry}#busybox", f"--container-save={own}", "true"])
    os.makedirs(trusted, mode=0o755, exist_ok=True)
    files = {"kernel": trusted + "/x.sqsh", "fuse": own}
    shutil.copyfile(own, files["kernel"])
    return files | singularity_files(trusted)


def singularity_files(trusted):
    """An image that Apptainer has built, for both readers, and its files as mksquashfs packs them, without its scripts."""
    files = {"sif": trusted + "/x.sif", "sif_fuse": "/home/pyxis-alice/bench.sif", "sif_files": trusted + "/sif.sqsh"}
    shutil.copyfile("/var/cache/pyxis-test/sif/docker.sif", files["sif"])
    shutil.copyfile(files["sif"], files["sif_fuse"])
    shutil.chown(files["sif_fuse"], "pyxis-alice")
    with open(files["sif"], "rb") as file:
        start = file.read().index(b"hsqs")
    tree = trusted + "/tree"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-offset", str(start), "-dest", tree, files["sif"]], **quiet)
    shutil.rmtree(tree + "/.singularity.d")
    subprocess.run(["mksquashfs", tree, files["sif_files"], "-all-root", "-quiet", "-no-progress"], **quiet)
    shutil.rmtree(tree)
    return files


def rung_starts(registry):
    """Starts of images of one layer and of 41, and of image files, by the kernel and by processes of the user."""
    files = small_files(registry)
    images = {"pack": registry + "#busybox", "deep": registry + "#deep"}
    took = {name: [] for name in ("bare", "pack_kernel", "pack_fuse", "deep_kernel", "deep_fuse", *(f"file_{name}" for name in files))}
    for turn in range(STARTS + 2):
        times = {"bare": srun("pyxis-alice", ["true"])[0]}
        for rung in ("kernel", "fuse"):
            with policy(f'[images]\nread_by = "{rung}"\n'):
                for name, image in images.items():
                    times[f"{name}_{rung}"] = srun("pyxis-alice", [f"--container-image={image}", "true"])[0]
        for rung, file in files.items():
            times[f"file_{rung}"] = srun("pyxis-alice", [f"--container-image={file}", "true"])[0]
        if turn >= 2:
            for name, value in times.items():
                took[name].append(value)
    middle = {name: statistics.median(values) for name, values in took.items()}
    for name, value in middle.items():
        if name != "bare":
            tell(f"start_{name}_overhead", value - middle["bare"], "ms")
    for name in ("pack_fuse", *(f"file_{name}" for name in files)):
        tell(f"start_{name}_vs_pack", middle[name] - middle["pack_kernel"], "ms")
    tell("start_file_sif_vs_its_files", middle["file_sif"] - middle["file_sif_files"], "ms")
    tell("start_bare_written", written_by([]) / 1024, "KiB", 0)
    for rung, file in files.items():
        tell(f"start_file_{rung}_written", written_by([f"--container-image={file}"]) / 1024, "KiB", 0)
    shutil.rmtree(os.path.dirname(files["kernel"]))
    os.unlink(files["fuse"])
    os.unlink(files["sif_fuse"])


def gpu_host(host):
    """A stand-in for a host with 8 GPUs, and libraries that the one of the tests does not have."""
    version = "550.54.15"
    subprocess.run([os.path.join(os.path.dirname(__file__), "../cluster/gpus"), host, "8", version], check=True, stdout=subprocess.DEVNULL)
    (directory,) = (os.path.dirname(path) for path in glob.glob(f"{host}/usr/lib/*/libcuda.so.{version}"))
    for name in MORE_LIBRARIES:
        library = f"{directory}/{name}.so.{version}"
        soname = f"-Wl,-soname,{name}.so.1"
        subprocess.run(["cc", "-shared", "-nostdlib", "-o", library, soname, "-x", "c", "/dev/null"], check=True)
    subprocess.run(["/sbin/ldconfig", "-r", host], check=True)
    return len(glob.glob(f"{directory}/*.so.{version}"))


def gpus(registry, work):
    """A container with GPUs against one without, both with a /dev of their own."""
    host, image = os.path.join(work, "gpus"), f"--container-image={registry}#busybox"
    libraries = gpu_host(host)
    os.chmod(work, 0o755)
    kinds = {"none": "void", "gpus": "all"}
    took = {name: [] for name in kinds}
    with policy(f'[container]\nrestrict_dev = true\n[devices]\nroot = "{host}"\n'):
        for turn in range(STARTS + 2):
            for name, visible in kinds.items():
                variables = f"--export=ALL,NVIDIA_VISIBLE_DEVICES={visible},NVIDIA_DRIVER_CAPABILITIES=all"
                time_taken = srun("pyxis-alice", [variables, image, "true"])[0]
                if turn >= 2:
                    took[name].append(time_taken)
    tell("gpus_libraries", libraries, "libraries", 0)
    tell("gpus_vs_none", statistics.median(took["gpus"]) - statistics.median(took["none"]), "ms")
    shutil.rmtree(host)


def written():
    """Bytes that were written to the disks of this machine so far."""
    os.sync()
    with open("/proc/diskstats", encoding="utf-8") as file:
        fields = [line.split() for line in file]
    return sum(int(line[9]) * 512 for line in fields if os.path.exists(f"/sys/block/{line[2]}/device"))


def written_by(options):
    """Bytes per start, with what Slurm writes."""
    before = written()
    for _ in range(STARTS):
        srun("pyxis-alice", [*options, "true"])
    return (written() - before) / STARTS


def file_memory(path):
    """The most memory that our processes take while a step reads all of an image file of a user's."""
    shutil.chown(path, "pyxis-alice")
    stop, peak = threading.Event(), [0]
    watcher = threading.Thread(target=watch, args=(stop, peak))
    watcher.start()
    srun("pyxis-alice", [f"--container-image={path}", "sh", "-c", "tar -cf - /usr 2>/dev/null | cat >/dev/null"])
    stop.set()
    watcher.join()
    tell("file_2g_peak_rss", peak[0] / (1 << 20), "MiB", 0)


def watch(stop, peak):
    """Keeps the largest sum seen of the processes that a step with a container has beside its tasks."""
    while not stop.wait(0.02):
        total = 0
        for entry in os.scandir("/proc"):
            try:
                with open(entry.path + "/comm", encoding="utf-8") as file:
                    ours = file.read().strip() in ("pyxis", "squashfuse_ll")
                if ours:
                    with open(entry.path + "/smaps_rollup", encoding="utf-8") as file:
                        total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
            except OSError:
                pass
        peak[0] = max(peak[0], total)


def cold_import(registry, work):
    """One import into an empty store: what it cost, and the size of the packs."""
    store = os.path.join(work, "store")
    shutil.rmtree(store, ignore_errors=True)
    os.sync()
    cost = measure(["pyxis", "pull", "--store", store, f"docker://{registry}/bench"], with_memory=True)
    cost["packs"] = sum(os.path.getsize(path) for path in glob.glob(store + "/packs-*/**", recursive=True) if os.path.isfile(path))
    shutil.rmtree(store)
    return cost


def pipeline(registry, work):
    """Seconds of the same by the usual tools, and the layers' blobs for whoever needs them next."""
    blobs, tree, packed = (os.path.join(work, name) for name in ("blobs", "tree", "image.sqsh"))
    for path in (blobs, tree):
        shutil.rmtree(path, ignore_errors=True)
    os.makedirs(tree)
    os.sync()
    begin = time.monotonic()
    subprocess.run(
        ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{registry}/bench", "dir:" + blobs], check=True
    )
    with open(blobs + "/manifest.json", encoding="utf-8") as file:
        layers = [os.path.join(blobs, entry["digest"].split(":")[1]) for entry in json.load(file)["layers"]]
    for layer in layers:
        subprocess.run(["tar", "--extract", "--gzip", "--file", layer, "-C", tree], check=True)
    subprocess.run(
        ["mksquashfs", tree, packed, "-comp", "zstd", "-Xcompression-level", "1", "-noappend", "-no-progress", "-quiet"],
        check=True, stdout=subprocess.DEVNULL,
    )
    took = time.monotonic() - begin
    shutil.rmtree(tree)
    os.unlink(packed)
    return took, layers


def imports(registry, work, codec_floor):
    """Cold imports against the pipeline and against bare codecs."""
    ours, theirs, floors, layers = [], [], [], []
    for _ in range(IMPORTS):
        ours.append(cold_import(registry, work))
        took, layers = pipeline(registry, work)
        theirs.append(took)
        floors.append(measure([codec_floor, *layers])["cpu"])
    wall = statistics.median(cost["wall"] for cost in ours)
    tell("import_cold", wall, "s")
    tell("import_pipeline", statistics.median(theirs), "s")
    tell("import_vs_pipeline", wall / statistics.median(theirs), "ratio", 3)
    tell("import_peak_rss", max(cost["peak"] for cost in ours) / (1 << 20), "MiB", 0)
    tell("import_bytes_written_ratio", statistics.median(cost["written"] / cost["packs"] for cost in ours), "ratio", 3)
    tell("import_cpu", statistics.median(cost["cpu"] for cost in ours), "s")
    tell("import_cpu_vs_codecs", statistics.median(cost["cpu"] for cost in ours) / statistics.median(floors), "ratio", 3)


def seconds(*command):
    """How long a command takes."""
    begin = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - begin


def saves(registry):
    """Saving a container against a copy of the saved file."""
    directory = "/home/pyxis-alice/bench-save"
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    shutil.chown(directory, "pyxis-alice")
    saved, copy = directory + "/saved.sqsh", directory + "/copy.sqsh"
    step = [f"--container-image={registry}#bench-2g", "--container-writable"]
    change = ["sh", "-c", "head -c 10485760 /dev/urandom >/change"]
    srun("pyxis-alice", [*step, *change])
    plain, saving, copying, synced = [], [], [], []
    for _ in range(SAVES):
        for path in (saved, copy):
            if os.path.exists(path):
                os.unlink(path)
        os.sync()
        plain.append(srun("pyxis-alice", [*step, *change])[0] / 1000)
        saving.append(srun("pyxis-alice", [*step, f"--container-save={saved}", *change])[0] / 1000)
        os.sync()
        copying.append(seconds("cp", saved, copy))
        os.unlink(copy)
        os.sync()
        synced.append(seconds("cp", saved, copy) + seconds("sync", copy))
    size = os.path.getsize(saved)
    file_memory(saved)
    shutil.rmtree(directory)
    cost = statistics.median(saving) - statistics.median(plain)
    tell("save_size", size / (1 << 20), "MiB", 0)
    tell("save", cost, "s", 2)
    tell("save_cp", statistics.median(copying), "s", 2)
    tell("save_vs_cp", cost / statistics.median(copying), "ratio", 2)
    tell("save_vs_cp_synced", cost / statistics.median(synced), "ratio", 2)


if __name__ == "__main__":
    many_tasks(sys.argv[1], starts(sys.argv[1]))
    plugin_load(sys.argv[2])
    rung_starts(sys.argv[1])
    gpus(*sys.argv[1:3])
    saves(sys.argv[1])
    names(sys.argv[1])
    imports(*sys.argv[1:4])
