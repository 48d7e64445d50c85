"""Runs a command and tells what it cost, with all the processes that it started."""

import ctypes
import json
import os
import resource
import threading
import time

PR_SET_CHILD_SUBREAPER = 36


def descendants(pid):
    """All processes below one."""
    parents = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat", encoding="utf-8", errors="replace") as file:
                    parents.setdefault(int(file.read().rsplit(") ", 1)[1].split()[1]), []).append(int(entry.name))
            except OSError:
                pass
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def memory(pid):
    """Resident memory of all processes below one, in bytes. Pages that several of them share count once (Pss)."""
    total = 0
    for child in descendants(pid):
        try:
            with open(f"/proc/{child}/smaps_rollup", encoding="utf-8") as file:
                total += sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def watch_memory(pid, stop, peak):
    """Keeps the largest sum seen, looking every 20 ms."""
    while not stop.wait(0.02):
        peak[0] = max(peak[0], memory(pid))


def child(command, pipe):
    """In a process of its own that adopts every orphan: so nothing that the command started is missed."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begin = time.monotonic()
    # What it prints goes to stderr: stdout is for the results.
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status = os.waitpid(pid, 0)
    wall = time.monotonic() - begin
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
    # The kernel adds the accounts of a process to those of the parent that waits for it.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open("/proc/self/io", encoding="utf-8") as file:
        written = next(int(line.split()[1]) for line in file if line.startswith("write_bytes:"))
    result = {
        "code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "written": written,
    }
    os.write(pipe, json.dumps(result).encode())
    os._exit(0)


def measure(command, with_memory=False):
    """{wall, cpu} in seconds, {written, peak} in bytes; an error when the command fails."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        child(command, write)
    os.close(write)
    stop, peak = threading.Event(), [0]
    watcher = threading.Thread(target=watch_memory, args=(pid, stop, peak))
    if with_memory:
        watcher.start()
    with os.fdopen(read, "rb") as pipe:
        result = json.loads(pipe.read())
    stop.set()
    if with_memory:
        watcher.join()
    os.waitpid(pid, 0)
    if result["code"] != 0:
        raise SystemExit(f"failed ({result['code']}): {' '.join(command)}")
    result["peak"] = peak[0]
    return result
