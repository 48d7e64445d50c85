//! What the root file system tests share: packs made by mksquashfs, a plan to start from, running a command inside,
//! and the check that nothing is left on the host.
#![allow(dead_code)]

use nix::sched::{CloneFlags, unshare};
use pyxis_runtime::enter::{Enter, Join, enter};
use pyxis_runtime::mount::{MountOptions, MountSource, MountSpec};
use pyxis_runtime::namespaces::{Namespaces, make};
use pyxis_runtime::plan::{FileContent, Identity, Origin, Plan, PlannedFile, PlannedMount, Unshare};
use pyxis_runtime::rootfs::reader::Reader;
use pyxis_runtime::rootfs::{Base, Data, Lower, Lowers, Rung, Writable};
use pyxis_runtime::sys::cgroup::Groups;
use pyxis_runtime::sys::process::{self, Exit};
use pyxis_runtime::{Result, privilege};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub const UID: u32 = 23_456;
pub const GID: u32 = 23_457;
pub const GROUP: u32 = 23_458;

pub fn user() -> Identity {
    Identity {
        uid: UID,
        gid: GID,
        groups: vec![GID, GROUP],
    }
}

/// What the host has that a container start may leave behind.
#[derive(Debug, PartialEq, Eq)]
struct HostState {
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
    children: BTreeSet<String>,
}

impl HostState {
    fn now() -> Self {
        HostState {
            // Of this thread, which `Clean` has given a mount namespace of its own.
            mounts: fs::read_to_string("/proc/thread-self/mountinfo")
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
            loops: loops_of_us(),
            children: children_of(std::process::id()),
        }
    }
}

/// Loop devices whose backing file is one of this test process's packs: other tests run beside this one.
fn loops_of_us() -> BTreeSet<String> {
    let mark = format!("/pyxis-test-{}-", std::process::id());
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/sys/block").unwrap() {
        let path = entry.unwrap().path().join("loop/backing_file");
        let text = fs::read_to_string(&path).unwrap_or_default();
        if text.contains(&mark) {
            found.insert(format!("{} {}", path.display(), text.trim()));
        }
    }
    found
}

/// Living descendants.
pub fn children_of(pid: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in list.split_whitespace() {
            found.insert(child.to_owned());
            found.extend(children_of(child.parse().unwrap()));
        }
    }
    found
}

/// How many processes have these words in their command line.
pub fn alive(words: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).replace('\0', " ").contains(words))
        .count()
}

/// Waits, with a deadline, until `done` says so. The kernel has no event for "this loop device is clear".
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        std::thread::yield_now();
    }
}

/// Checks at its end that the host is as it was at its start. Other tests mount and unmount things meanwhile: the calling
/// thread gets a mount namespace of its own, which is the host that is looked at.
pub struct Clean {
    before: HostState,
    pub dir: tempfile::TempDir,
}

impl Clean {
    pub fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let prefix = format!("pyxis-test-{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Clean {
            before: HostState::now(),
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A pack made of what `fill` puts into a directory.
    pub fn pack(&self, name: &str, fill: impl FnOnce(&Path)) -> OwnedFd {
        let tree = self.path(&format!("{name}.d"));
        fs::create_dir(&tree).unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
        fill(&tree);
        self.squash(&tree, name)
    }

    pub fn squash(&self, tree: &Path, name: &str) -> OwnedFd {
        let file = self.path(&format!("{name}.sqsh"));
        let made = Command::new("mksquashfs")
            .args([tree, &file])
            .args(["-quiet", "-no-progress", "-all-root", "-xattrs", "-comp", "gzip"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::File::open(file).unwrap().into()
    }

    /// The usual base image: busybox and a few files.
    pub fn base(&self) -> OwnedFd {
        self.pack("base", fill_base)
    }
}

impl Drop for Clean {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let before = &self.before;
        eventually(&format!("the host is as before: {before:?}"), || {
            HostState::now() == *before
        });
    }
}

pub fn fill_base(tree: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "usr/lib", "root"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "ls", "id", "stat", "mkdir", "rm", "mv", "chown", "chmod", "grep", "touch", "echo", "mount",
        "umount", "readlink", "df", "pwd", "test", "ln", "unshare", "true", "ifconfig", "ip", "mknod", "find",
    ] {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:42::/:/bin/false\n",
    )
    .unwrap();
    fs::write(tree.join("usr/lib/data"), "from the image\n").unwrap();
}

pub fn plan() -> Plan {
    Plan {
        identity: user(),
        remap_root: false,
        writable: true,
        mount_home: false,
        restrict_dev: false,
        unshare: Unshare::default(),
        mounts: Vec::new(),
        env: Vec::new(),
        files: Vec::new(),
        stand_ins: Vec::new(),
        mount_sources: None,
        devices: None,
        hooks: None,
        program: None,
        cwd: PathBuf::from("/"),
    }
}

pub fn system(source: &str, target: &str, options: MountOptions) -> PlannedMount {
    PlannedMount {
        origin: Origin::System,
        judged: false,
        ..mount(source, target, options)
    }
}

/// A user's mount.
pub fn mount(source: &str, target: &str, options: MountOptions) -> PlannedMount {
    let source = match source {
        "tmpfs" => MountSource::Tmpfs,
        "umount" => MountSource::Umount,
        path => MountSource::Path(path.into()),
    };
    PlannedMount {
        spec: MountSpec {
            source,
            target: target.into(),
            options,
        },
        origin: Origin::User,
        judged: true,
    }
}

pub fn rbind() -> MountOptions {
    MountOptions {
        recursive: true,
        ..MountOptions::default()
    }
}

pub fn proc_mount() -> PlannedMount {
    system(
        "/proc",
        "/proc",
        MountOptions {
            nosuid: true,
            nodev: true,
            noexec: true,
            ..rbind()
        },
    )
}

pub fn replace(path: &str, text: &str) -> PlannedFile {
    PlannedFile {
        path: path.into(),
        content: FileContent::Replace {
            bytes: text.as_bytes().to_vec(),
            mode: 0o644,
        },
        only_with: None,
    }
}

/// The plan's container, and what its builder noted.
pub fn build(plan: &Plan, packs: &[OwnedFd]) -> Result<(Namespaces, Vec<String>)> {
    let writable = Writable::Scratch;
    let lowers = &lowers(packs, plan)?;
    build_over(plan, &Base::Layers { lowers, writable })
}

pub fn build_over(plan: &Plan, base: &Base<'_>) -> Result<(Namespaces, Vec<String>)> {
    build_with(plan, base, &Data::default())
}

pub fn build_with(plan: &Plan, base: &Base<'_>, data: &Data) -> Result<(Namespaces, Vec<String>)> {
    let mut notes = Vec::new();
    let made = make(plan, base, data, &mut |note| notes.push(note))?;
    Ok((made, notes))
}

/// The packs as layers, on the rung that the variable says: `PYXIS_TEST_RUNG=fuse` runs all tests on the second one.
pub fn lowers(packs: &[OwnedFd], plan: &Plan) -> Result<Lowers> {
    let packs = packs.iter().map(|pack| Lower::pack(pack.try_clone().unwrap()));
    let layers = packs.collect::<Result<_>>()?;
    match std::env::var("PYXIS_TEST_RUNG").as_deref() {
        Ok("fuse") => Ok(on_fuse(layers, &plan.identity)),
        Err(_) | Ok("kernel") => on_kernel(layers, &plan.identity),
        Ok(other) => panic!("PYXIS_TEST_RUNG={other}: take kernel or fuse"),
    }
}

pub fn on_kernel(layers: Vec<Lower>, identity: &Identity) -> Result<Lowers> {
    let rung = Rung::kernel(&layers, identity)?;
    Ok(Lowers {
        layers,
        rung,
        own_files: None,
        user_marks: false,
    })
}

pub fn on_fuse(layers: Vec<Lower>, identity: &Identity) -> Lowers {
    let reader = Reader::new(
        Path::new("/usr/bin/squashfuse_ll"),
        Groups::default(),
        identity,
        "the test's image",
    );
    Lowers {
        layers,
        rung: Rung::Fuse(reader.unwrap()),
        own_files: None,
        user_marks: true,
    }
}

/// The error text of a plan that must fail.
pub fn fails(plan: &Plan, packs: &[OwnedFd]) -> String {
    match build(plan, packs) {
        Ok(_) => panic!("this container should not have started: {plan:?}"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            text
        }
    }
}

pub fn how(plan: &Plan) -> Enter {
    Enter {
        remap_root: plan.remap_root,
        workdir: "/".into(),
        explicit_workdir: false,
    }
}

pub struct Ran {
    pub exit: Exit,
    pub output: String,
}

/// Runs a shell script as a task of the container.
pub fn run_with(made: &Namespaces, identity: &Identity, how: &Enter, script: &str) -> Ran {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let child = {
        let mut keep = vec![write.as_fd(), made.user.as_ref().unwrap().as_fd(), made.mount.as_fd()];
        keep.extend([&made.net, &made.ipc, &made.uts].into_iter().flatten().map(AsFd::as_fd));
        process::fork(&keep, || task(made, identity, how, script, &write)).unwrap()
    };
    drop(write);
    let mut output = String::new();
    fs::File::from(read).read_to_string(&mut output).unwrap();
    Ran {
        exit: child.wait().unwrap(),
        output,
    }
}

fn task(made: &Namespaces, identity: &Identity, how: &Enter, script: &str, write: &OwnedFd) -> u8 {
    let say = |text: String| {
        rustix::io::write(write, text.as_bytes()).unwrap();
        99
    };
    if let Err(error) = privilege::irrevocably_become_user(identity, 0) {
        return say(format!("become: {error}"));
    }
    if let Err(error) = enter(&Join::from(made), how) {
        return say(format!("enter: {error}"));
    }
    exec_shell(script, write);
    say("exec failed".into())
}

fn exec_shell(script: &str, write: &OwnedFd) {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env_clear().env("PATH", "/bin");
    command
        .stdout(write.try_clone().unwrap())
        .stderr(write.try_clone().unwrap());
    let error = command.exec();
    rustix::io::write(write, format!("{error}: ").as_bytes()).unwrap();
}

pub fn run(made: &Namespaces, plan: &Plan, script: &str) -> Ran {
    run_with(made, &plan.identity, &how(plan), script)
}

/// Builds, runs, and gives the output of a script that must succeed.
pub fn output(plan: &Plan, packs: &[OwnedFd], script: &str) -> String {
    let (made, _) = build(plan, packs).unwrap();
    let ran = run(&made, plan, script);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
    ran.output
}

/// A file of the host.
pub fn host_file(path: &Path, text: &str, owner: (u32, u32), mode: u32) {
    fs::write(path, text).unwrap();
    own(path, owner, mode);
}

pub fn host_dir(path: &Path, owner: (u32, u32), mode: u32) {
    fs::create_dir(path).unwrap();
    own(path, owner, mode);
}

pub fn own(path: &Path, owner: (u32, u32), mode: u32) {
    chown(path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A SIF file of one partition.
pub fn sif(squashfs: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 32_768];
    file[32..45].copy_from_slice(b"SIF_MAGIC\x0001\0");
    file[88..96].copy_from_slice(&1_u64.to_le_bytes());
    file[96..104].copy_from_slice(&4096_u64.to_le_bytes());
    let one = &mut file[4096..4096 + 585];
    // Its kind, that it is in use, and its number.
    one[..9].copy_from_slice(&[4, 0x40, 0, 0, 1, 1, 0, 0, 0]);
    one[17..25].copy_from_slice(&32_768_u64.to_le_bytes());
    one[25..33].copy_from_slice(&(squashfs.len() as u64).to_le_bytes());
    one[201] = 1;
    one[205] = 2;
    let machine: &[u8] = if cfg!(target_arch = "aarch64") { b"04" } else { b"02" };
    one[209..211].copy_from_slice(machine);
    file.extend_from_slice(squashfs);
    file
}

/// A squashfs file of a tree: by gensquashfs when its options begin with `-c`, else by mksquashfs.
pub fn squashfs_of(tree: &Path, file: &Path, options: &[&str]) {
    let mut command = match options.first() {
        Some(&"-c") => {
            let mut command = Command::new("gensquashfs");
            command
                .args(["-q", "--all-root", "-D"])
                .arg(tree)
                .args(options)
                .arg(file);
            command
        }
        _ => {
            let mut command = Command::new("mksquashfs");
            command
                .args([tree, file])
                .args(["-quiet", "-no-progress", "-all-root"])
                .args(options);
            command
        }
    };
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
