# GPUs that Slurm gave to a job, in its containers. Needs a cluster of its own kind (`tests/cluster/up gpu`): the node tiny has
# four stand-in GPUs, whose files are real but for the driver.
# shellcheck shell=bash disable=SC2154,SC2034,SC2016

setup_file() {
    load common
    [ -e "$test_state/gres.conf" ] || skip "this cluster has no GPUs: tests/cluster/up gpu"
}
setup() {
    load common
    [ -e "$test_state/gpu" ] || skip "this cluster has no GPUs: tests/cluster/up gpu"
    policy=$test_state/tiny.toml
    cp "$policy" "$BATS_TEST_TMPDIR/policy"
}
teardown() { cat "$BATS_TEST_TMPDIR/policy" >"$policy"; }

# gpu [VAR=VALUE...] ARGUMENTS...: a small container on the node with GPUs.
gpu() {
    local vars=()
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    box "${vars[@]}" -p tiny "$@"
}
devices='for f in /dev/nvidia*[0-9l]; do [ ! -c $f ] || echo $(stat -c "%n %t:%T" $f); done'
asked=(NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility)

@test "the GPUs of the job and no others, with the driver" {
    gpu "${asked[@]}" --gres=gpu:2 sh -c "$devices"
    says $'/dev/nvidia0 c3:0\n/dev/nvidia1 c3:1\n/dev/nvidiactl c3:ff'
    gpu "${asked[@]}" --gres=gpu:1 sh -c 'nvidia-smi; ls /usr/lib | grep -E "^lib(cuda|nvidia-ml).so"; test -S /run/nvidia-persistenced/socket'
    says $'nvidia-smi 550.54.15\nlibcuda.so\nlibcuda.so.1\nlibcuda.so.550.54.15\nlibnvidia-ml.so.1\nlibnvidia-ml.so.550.54.15'
}

@test "in a read-only and a writable container" {
    for kind in readonly writable; do
        gpu "${asked[@]}" --gres=gpu:1 "--container-$kind" sh -c 'test -c /dev/nvidia0 && test -f /usr/lib/libcuda.so.1 && nvidia-smi'
        says "nvidia-smi 550.54.15"
    done
}

@test "who does not ask has none" {
    gpu --gres=gpu:2 sh -c "$devices; ls /usr/lib 2>/dev/null | grep -c cuda"
    [ "$output" = 0 ] || { show; return 1; }
    gpu NVIDIA_VISIBLE_DEVICES=void --gres=gpu:2 sh -c "$devices"
    says ""
    gpu NVIDIA_VISIBLE_DEVICES=none --gres=gpu:2 sh -c "$devices"
    says "/dev/nvidiactl c3:ff"
}

@test "each task has its own of the step's GPUs" {
    gpu "${asked[@]}" -n2 --gpus-per-task=1 sh -c "echo \$CUDA_VISIBLE_DEVICES; $devices"
    ok
    [ "$(sort <<<"$output")" = "$(printf '%s\n' 0 1 '/dev/nvidia0 c3:0' '/dev/nvidia0 c3:0' '/dev/nvidia1 c3:1' '/dev/nvidia1 c3:1' \
        '/dev/nvidiactl c3:ff' '/dev/nvidiactl c3:ff' | sort)" ] || { show; return 1; }
}

@test "the option, and the site's switch, for images that say nothing" {
    gpu --gres=gpu:1 --container-gpus sh -c "$devices"
    out_has "/dev/nvidia0 c3:0"
    out_lacks nvidia1
    gpu PYXIS_CONTAINER_GPUS=1 --gres=gpu:1 sh -c "$devices"
    out_has "/dev/nvidia0 c3:0"
    gpu "${asked[@]}" --gres=gpu:1 --no-container-gpus sh -c "$devices"
    says ""
    # The node has the file itself, whatever has its name later.
    sed 's/^\[devices\]$/&\njob_gpus = true/' "$BATS_TEST_TMPDIR/policy" >"$policy"
    gpu --gres=gpu:1 sh -c "$devices"
    out_has "/dev/nvidia0 c3:0"
    gpu sh -c "$devices"
    says ""
    gpu --gres=gpu:1 --no-container-gpus sh -c "$devices"
    says ""
}

@test "a batch script in a container" {
    work=$(alice_dir gpu)
    printf '#!/bin/sh\n%s\n' "$devices" >"$work/script"
    run --separate-stderr as "$alice" "${asked[@]}" timeout 90 sbatch --wait --quiet -p tiny --gres=gpu:1 -o "$work/out" \
        --container-image="$R#busybox" "$work/script"
    ok
    [ "$(grep -v ^pyxis: "$work/out")" = $'/dev/nvidia0 c3:0\n/dev/nvidiactl c3:ff' ] || { cat "$work/out"; return 1; }
    rm -rf "$work"
}

@test "wrong words are one line each, and nothing is left" {
    remember_host
    gpu NVIDIA_VISIBLE_DEVICES=7 --gres=gpu:1 true
    fails 'no GPU "7"' "this node has 4 GPUs"
    gpu NVIDIA_VISIBLE_DEVICES=3 --gres=gpu:1 true
    fails "the job was not given"
    gpu NVIDIA_VISIBLE_DEVICES=GPU-nonsense --gres=gpu:1 true
    fails 'no GPU "GPU-nonsense"'
    gpu NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=magic --gres=gpu:1 true
    fails 'unknown word "magic"'
    gpu "${asked[@]}" NVIDIA_REQUIRE_CUDA="cuda>=13.0" --gres=gpu:1 true
    fails "cuda>=13.0" "driver 550.54.15, cuda 12.4"
    gpu "${asked[@]}" NVIDIA_REQUIRE_CUDA="cuda>=13.0" NVIDIA_DISABLE_REQUIRE=1 --gres=gpu:1 true
    ok
    as_before new-packs
}

@test "libraries that the job's variables name are loaded by none of our processes" {
    work=$(alice_dir preload)
    printf '#include <fcntl.h>\n#include <unistd.h>\n%s\n%s\n' \
        '__attribute__((constructor)) static void loaded(void) { int f = open("MARK", O_WRONLY|O_CREAT|O_APPEND, 0666); write(f, "x", 1); }' \
        'unsigned int la_version(unsigned int v) { return v; }' | sed "s,MARK,$work/mark," >"$work/evil.c"
    cc -shared -fPIC -o "$work/evil.so" "$work/evil.c"
    install -m 0666 /dev/null "$work/mark"
    evil="ALL,LD_PRELOAD=$work/evil.so,LD_AUDIT=$work/evil.so,GCONV_PATH=$work"
    # Outside of containers it works.
    job -p tiny --export="$evil" /bin/true
    [ -s "$work/mark" ] || { echo "the library does nothing"; return 1; }
    : >"$work/mark"
    gpu "${asked[@]}" --gres=gpu:1 --export="$evil" nvidia-smi
    out_has "nvidia-smi 550.54.15"
    [ ! -s "$work/mark" ] || { echo "loaded $(wc -c <"$work/mark") times"; return 1; }
    rm -rf "$work"
}

@test "the commands and job scripts of the pages" {
    local place
    for place in /data /scratch; do
        [ ! -e "$place" ] || skip "this machine has a $place of its own"
    done
    who=$alice work=$(alice_dir docs)
    mkdir /data /scratch
    # What a model has to see.
    printf '%s\n' "$devices" 'nvidia-smi; test -e /data/train.py' | tee /data/train.py >"$work/train.py"
    model_file
    for page in README.md docs/user/gpus.md docs/migrating.md; do
        commands "$page" gpu SLURM_PARTITION=tiny SBATCH_PARTITION=tiny || { rm -rf /data /scratch "$work"; return 1; }
    done
    rm -rf /data /scratch "$work"
}
