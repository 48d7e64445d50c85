#!/usr/bin/python3
"""Writes the config.json of a container as a kubelet's runtime would make it for a slurmd pod that is not privileged.

`bundle.py BUNDLE CAPABILITIES MOUNTS COMMAND...`: BUNDLE has the directory rootfs; CAPABILITIES are names without CAP_, with commas
between them; MOUNTS are SOURCE:TARGET, likewise.
"""

import json
import sys

MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
          "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def mount(kind, target, source=None, *options):
    return {"type": kind, "destination": target, "source": source or kind, "options": list(options)}


def config(capabilities, binds, command):
    sets = dict.fromkeys(("bounding", "effective", "permitted"), ["CAP_" + name for name in capabilities])
    mounts = [
        mount("proc", "/proc"),
        mount("tmpfs", "/dev", None, "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("devpts", "/dev/pts", None, "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("mqueue", "/dev/mqueue", None, "nosuid", "noexec", "nodev"),
        mount("tmpfs", "/dev/shm", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("sysfs", "/sys", None, "nosuid", "noexec", "nodev", "ro"),
        mount("tmpfs", "/run", None, "nosuid", "nodev", "mode=755"),
    ]
    mounts += [mount("bind", target, source, "rbind", "rprivate", "rw") for source, target in binds]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": command,
            "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": sets,
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs"},
        "hostname": "pod",
        "mounts": mounts,
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }


def words(text):
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    bundle, capabilities, binds = sys.argv[1:4]
    pairs = [word.split(":") for word in words(binds)]
    with open(f"{bundle}/config.json", "w", encoding="utf-8") as file:
        json.dump(config(words(capabilities), pairs, sys.argv[4:]), file, indent=1)
