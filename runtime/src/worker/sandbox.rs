//! The cage of a worker that reads untrusted bytes: no new privileges, no file it does not need (Landlock), no system
//! call it does not need (seccomp). It is entered before the first byte is read and before the first thread is started.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::image::RegistryConfig;
use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use nix::sys::resource::{Resource, setrlimit};
use rustix::fd::BorrowedFd;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

/// The Landlock version that is asked for; an older kernel enforces what it knows.
const LANDLOCK: ABI = ABI::V6;

/// What a resolver, a TLS client and the dynamic loader read: libraries, name service and certificate files, the
/// sockets of local name service daemons, and the worker program itself, which starts the layer workers.
const NETWORK_READS: [&str; 7] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run",
    "/var/lib/sss",
    "/proc/self/exe",
];

/// Where the reader of images and its libraries may be.
const READER_READS: [&str; 6] = ["/usr", "/lib", "/lib64", "/opt", "/nix/store", "/etc/ld.so.cache"];
/// What a program needs to start.
const PROGRAM_READS: [&str; 5] = ["/etc", "/usr", "/lib", "/lib64", "/proc/self/exe"];

/// The network roles: may connect and read the system's configuration, may write nothing.
pub(super) fn for_network(registry: &RegistryConfig) -> Result<()> {
    let certificates = [&registry.ca_file, &registry.ca_dir].into_iter().flatten();
    let reads = NETWORK_READS
        .iter()
        .map(Path::new)
        .chain(certificates.map(PathBuf::as_path));
    let allowed = AccessFs::from_read(LANDLOCK) | AccessFs::Execute;
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(reads, allowed)))
        .and_then(|rules| {
            rules.add_rules(path_beneath_rules(
                ["/dev/null"],
                AccessFs::ReadFile | AccessFs::WriteFile,
            ))
        })
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| Error::Host(format!("landlock: {error}")))?;
    install(&network_filter()?)
}

/// The role that reads blobs from files: may read what starts a layer worker, may connect to nothing and write nothing.
pub(super) fn for_files() -> Result<()> {
    let allowed = AccessFs::from_read(LANDLOCK) | AccessFs::Execute;
    let null = AccessFs::ReadFile | AccessFs::WriteFile;
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(PROGRAM_READS, allowed)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(["/dev/null"], null)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| Error::Host(format!("landlock: {error}")))?;
    install(&files_filter()?)
}

/// The layer role: reads its standard input, writes its output file; no file can be opened, no socket made, no program
/// executed.
pub(super) fn for_layer() -> Result<()> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(std::iter::empty::<std::result::Result<NetPort, landlock::RulesetError>>()))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| Error::Host(format!("landlock: {error}")))?;
    install(&layer_filter()?)
}

/// The reader of an image, which is somebody else's program and is executed in this cage: it reads its image (descriptor
/// `image` of the calling process) and the libraries of the system, and talks to nobody but FUSE.
pub(crate) fn for_reader(image: RawFd) -> Result<()> {
    restrict_reader(&format!("/proc/self/fd/{image}")).map_err(|error| Error::Host(format!("landlock: {error}")))?;
    install(&reader_filter()?)?;
    install(&without_clone3()?)
}

fn restrict_reader(image: &str) -> std::result::Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rules(path_beneath_rules(
            READER_READS,
            AccessFs::from_read(LANDLOCK) | AccessFs::Execute,
        ))?
        .add_rules(path_beneath_rules([image], AccessFs::ReadFile))?
        .restrict_self()
}

/// What an unpacker does not do either: whom would it talk to, and what would it run?
const NO_UNPACKER_DOES: [libc::c_long; 4] = [
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
];

/// Who unpacks an image: may make files below `target`, and has nothing else open but the layers.
pub(crate) fn for_unpacking(target: BorrowedFd<'_>) -> Result<()> {
    let allowed = AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::Refer
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::MakeFifo;
    Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(PathBeneath::new(target, allowed)))
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| Error::Host(format!("landlock: {error}")))?;
    let numbers = NEVER.into_iter().chain(NO_UNPACKER_DOES);
    install(&refusing(numbers.map(|number| (number, Vec::new())).collect())?)
}

/// No new privileges, no core file that might hold a credential, and no look into this process for others of the same
/// user, who work for other jobs.
pub(super) fn harden() -> Result<()> {
    let failed = |call: &str, error: nix::errno::Errno| Error::sys("lock the worker in", call, error);
    nix::sys::prctl::set_no_new_privs().map_err(|error| failed("prctl(PR_SET_NO_NEW_PRIVS)", error))?;
    nix::sys::prctl::set_dumpable(false).map_err(|error| failed("prctl(PR_SET_DUMPABLE)", error))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| failed("setrlimit(RLIMIT_CORE)", error))
}

fn install(program: &BpfProgram) -> Result<()> {
    seccompiler::apply_filter(program).map_err(|error| Error::Host(format!("seccomp: {error}")))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> Result<BpfProgram> {
    let bad = |error: String| Error::Host(format!("seccomp: {error}"));
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|error| bad(format!("{error}")))?;
    SeccompFilter::new(rules, otherwise, on_match, arch)
        .and_then(TryInto::try_into)
        .map_err(|error: seccompiler::BackendError| bad(format!("{error}")))
}

/// What nobody does who reads for others.
const NEVER: [libc::c_long; 36] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
];

/// What a reader of images does not do either: it has its connection already, and starts nothing.
const NO_READER_DOES: [libc::c_long; 14] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_execve,
];

/// What a downloader never does, refused with EPERM.
fn network_filter() -> Result<BpfProgram> {
    refusing(NEVER.into_iter().map(|number| (number, Vec::new())).collect())
}

/// The same for who needs no network.
fn files_filter() -> Result<BpfProgram> {
    let numbers = NEVER.into_iter().chain([libc::SYS_socket]);
    refusing(numbers.map(|number| (number, Vec::new())).collect())
}

/// The same for a reader of images. Only what was opened before can be executed, by execveat(2) with an empty path, as it
/// is itself; and threads can be made, but no processes.
fn reader_filter() -> Result<BpfProgram> {
    let numbers = NEVER.into_iter().chain(NO_READER_DOES);
    let mut rules: Rules = numbers.map(|number| (number, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![unset(0, libc::CLONE_THREAD as u64)?]);
    rules.insert(
        libc::SYS_execveat,
        vec![unset(4, u64::from(libc::AT_EMPTY_PATH.unsigned_abs()))?],
    );
    // Signals of others of the same user, which Landlock refuses since Linux 6.12 only.
    rules.insert(
        libc::SYS_tgkill,
        vec![rule(0, SeccompCmpOp::Ne, u64::from(std::process::id()))?],
    );
    refusing(rules)
}

/// clone3(2) hides its flags from filters. The C library does without it where it seems to be missing.
fn without_clone3() -> Result<BpfProgram> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    compile(rules, SeccompAction::Allow, missing)
}

fn refusing(rules: Rules) -> Result<BpfProgram> {
    let listed = compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
    )?;
    Ok(without_x32().into_iter().chain(listed).collect())
}

/// On x86-64 all system calls have a second number, with this bit (`__X32_SYSCALL_BIT`), for programs of the x32 ABI. Kernels
/// that have it do the same for those numbers, and a list of the others does not refuse them.
const X32: u32 = 0x4000_0000;

/// Instructions that refuse such numbers, for the beginning of a filter.
fn without_x32() -> Vec<sock_filter> {
    let instruction = |code: u32, jf, k| sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf,
        k,
    };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    match cfg!(target_arch = "x86_64") {
        true => vec![
            // The number is what `struct seccomp_data` begins with.
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, X32),
            instruction(libc::BPF_RET | libc::BPF_K, 0, refused),
        ],
        false => Vec::new(),
    }
}

/// What inflating, parsing and compressing need; all else fails with ENOSYS, so that the C library falls back.
fn layer_filter() -> Result<BpfProgram> {
    let allowed = [
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_ftruncate,
        libc::SYS_sync_file_range,
        libc::SYS_fdatasync,
        libc::SYS_fallocate,
        libc::SYS_fadvise64,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_ppoll,
    ];
    let mut rules: Rules = allowed.into_iter().map(|number| (number, Vec::new())).collect();
    // Threads but no processes; clone3 hides its flags from the filter, and the C library does without it.
    rules.insert(libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD as u64)?]);
    // The threads of this process only: others of the same user work for other jobs.
    rules.insert(libc::SYS_tgkill, vec![equal(0, u64::from(std::process::id()))?]);
    // Memory may change its protection, as thread stacks do, but never become executable.
    rules.insert(libc::SYS_mprotect, vec![unset(2, libc::PROT_EXEC as u64)?]);
    compile(
        rules,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
    )
}

/// Argument `index` has the bits of `flag`.
fn masked(index: u8, flag: u64) -> Result<SeccompRule> {
    rule(index, SeccompCmpOp::MaskedEq(flag), flag)
}

/// Argument `index` has none of the bits of `flag`.
fn unset(index: u8, flag: u64) -> Result<SeccompRule> {
    rule(index, SeccompCmpOp::MaskedEq(flag), 0)
}

/// Argument `index` is this.
fn equal(index: u8, value: u64) -> Result<SeccompRule> {
    rule(index, SeccompCmpOp::Eq, value)
}

fn rule(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| Error::Host(format!("seccomp: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Exit, fork};
    use rustix::process::{getpid, test_kill_process};

    /// The workers of all jobs have one user; one of them in the wrong hands must not end the others. Landlock refuses
    /// signals since Linux 6.12.
    #[test]
    fn a_worker_cannot_signal_other_processes_of_its_user() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let version: Vec<u32> = release.split('.').take(2).map(|part| part.parse().unwrap()).collect();
        let parent = getpid();
        let child = fork(&[], || {
            for_network(&RegistryConfig::default()).unwrap();
            let refused = test_kill_process(parent) == Err(rustix::io::Errno::PERM);
            u8::from(refused) + 2 * u8::from(test_kill_process(getpid()).is_ok())
        });
        let expected = if version >= vec![6, 12] { 3 } else { 2 };
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(expected));
    }

    /// A reader is somebody else's program that parses what users have written: of all that the user can do it keeps
    /// reading the image and libraries.
    #[test]
    fn a_reader_reads_its_image_and_does_nothing_else() {
        use std::os::fd::AsRawFd;
        let image = tempfile::tempfile().unwrap();
        let number = image.as_raw_fd();
        let parent = getpid();
        let child = fork(&[rustix::fd::AsFd::as_fd(&image)], || {
            for_reader(number).unwrap();
            let open = |path: &str| {
                std::fs::File::open(path)
                    .map(drop)
                    .map_err(|error| error.raw_os_error())
            };
            let refused = Err(Some(libc::EACCES));
            let checks = [
                open(&format!("/proc/self/fd/{number}")) == Ok(()),
                open("/etc/hostname") == refused && open("/proc/self/environ") == refused,
                open("/usr/bin/env") == Ok(()),
                std::fs::write(format!("/proc/self/fd/{number}"), "x").is_err(),
                std::net::UdpSocket::bind("127.0.0.1:0").is_err(),
                std::process::Command::new("/bin/true").status().is_err(),
                test_kill_process(parent) == Err(rustix::io::Errno::PERM),
                std::thread::spawn(|| 7).join().unwrap() == 7,
            ];
            checks.iter().fold(0, |sum, good| sum << 1 | u8::from(*good))
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0xff));
    }

    /// Landlock is there in every kernel that these tests run on.
    #[test]
    fn who_unpacks_can_make_files_in_one_directory_and_read_none() {
        let directory = tempfile::tempdir().unwrap();
        let (inside, outside) = (directory.path().join("inside"), directory.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "x").unwrap();
        let target: std::os::fd::OwnedFd = std::fs::File::open(&inside).unwrap().into();
        let child = fork(&[std::os::fd::AsFd::as_fd(&target)], || {
            harden().unwrap();
            for_unpacking(std::os::fd::AsFd::as_fd(&target)).unwrap();
            let made = std::fs::create_dir(inside.join("d")).is_ok()
                && std::fs::write(inside.join("d/file"), "x").is_ok()
                && std::fs::hard_link(inside.join("d/file"), inside.join("other")).is_ok();
            let refused = [
                std::fs::write(outside.join("new"), "x").is_err(),
                std::fs::File::open(outside.join("file")).is_err(),
                std::fs::File::open(inside.join("d/file")).is_err(),
                std::net::UdpSocket::bind("127.0.0.1:0").is_err(),
                std::process::Command::new("/bin/true").status().is_err(),
            ];
            u8::from(made && refused == [true; 5])
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(1));
    }
}
