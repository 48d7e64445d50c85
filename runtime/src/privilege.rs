//! The only place where ids and capabilities change. Each drop is checked after it was made: a call that silently did
//! nothing would be a hole.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::plan::Identity;
use crate::rootless;
use crate::sys::credentials::{self, CapabilitySets};
use crate::sys::process;
use caps::Capability;
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};

/// How ids show that a user namespace does not map (user_namespaces(7), "overflow" ids).
const NO_ID: u32 = 65534;

/// Who runs this process. Groups that his user namespace does not map show as [`NO_ID`], and still count.
pub fn caller() -> Identity {
    let groups = rustix::process::getgroups().unwrap_or_default();
    Identity {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
    }
}

/// The bit mask of some capabilities.
pub fn mask(capabilities: &[Capability]) -> u64 {
    capabilities
        .iter()
        .fold(0, |set, capability| set | capability.bitmask())
}

/// Runs `action` with the user's ids and groups for file access, and with no effective capability: what it opens is
/// what the user could open. The calling thread's other ids stay, so the user can neither signal nor trace it.
pub fn as_user<T>(identity: &Identity, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let parent = armed_parent()?;
    let groups: Vec<u32> = getgroups()
        .map_err(|error| Error::sys("become the user for a file", "getgroups", error))?
        .into_iter()
        .map(Gid::as_raw)
        .collect();
    let before = credentials::capget()?;
    // Who works for himself may not even set the groups that he has.
    let others = (groups != identity.groups).then_some(groups.as_slice());
    if others.is_some() {
        credentials::set_thread_groups(&identity.groups)?;
    }
    let result = enter_user(identity, before).and_then(|()| action());
    let restored = leave_user(before, others, parent);
    // The first error wins; that we could not become ourselves again must not be lost either.
    match (result, restored) {
        (result, Ok(())) => result,
        (Ok(_), Err(error)) => Err(error),
        (Err(first), Err(second)) => Err(first.context(&format!("{second}; before that"))),
    }
}

/// As [`as_user`], for system calls whose error is to be told apart.
pub fn call_as_user<T>(identity: &Identity, action: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    as_user(identity, || action().map_err(|error| Error::sys("", "", error))).map_err(|error| errno(&error))
}

/// The number of the system call's error.
pub fn errno(error: &Error) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error.errno().unwrap_or(libc::EIO))
}

/// Whose file it is. In a user's own namespace root is one of those who have no id there, and all of them count as root: what
/// such a runtime trusts can do what its user can, and no more.
pub fn owner(stat: &rustix::fs::Stat) -> u32 {
    match stat.st_uid {
        NO_ID if rootless::entered() => 0,
        uid => uid,
    }
}

/// A file or directory that nobody but root can write, as its owner and mode say.
pub fn only_root_can_write(stat: &rustix::fs::Stat) -> bool {
    owner(stat) == 0 && stat.st_mode & 0o022 == 0
}

/// Runs `action` with the user's ids for files that it makes, and with all rights that the caller has: they belong to him
/// from the beginning, also on a file system of his own, where root has no id.
pub fn owned_by_user<T>(identity: &Identity, action: impl FnOnce() -> T) -> Result<T> {
    let parent = armed_parent()?;
    let before = credentials::capget()?;
    let ids = (identity.uid, identity.gid);
    let entered = match credentials::set_fs_ids(identity.uid, identity.gid) == ids {
        // Changing fsuid from 0 has dropped some.
        true => credentials::capset(before),
        false => Err(not_changed("setfsuid", identity)),
    };
    let result = entered.map(|()| action());
    let restored = leave_user(before, None, parent);
    result.and_then(|result| restored.map(|()| result))
}

/// The parent whose death is to kill us, if any. Each change of ids makes the kernel forget that.
fn armed_parent() -> Result<Option<rustix::process::Pid>> {
    let armed = rustix::process::parent_process_death_signal()
        .map_err(|error| Error::sys("become the user for a file", "prctl(PR_GET_PDEATHSIG)", error))?;
    Ok(armed.and_then(|_| rustix::process::getppid()))
}

fn enter_user(identity: &Identity, before: CapabilitySets) -> Result<()> {
    let ids = (identity.uid, identity.gid);
    if credentials::set_fs_ids(identity.uid, identity.gid) != ids {
        return Err(not_changed("setfsuid", identity));
    }
    let effective = if identity.uid == 0 { before.effective } else { 0 };
    credentials::capset(CapabilitySets { effective, ..before })
}

fn leave_user(before: CapabilitySets, groups: Option<&[u32]>, parent: Option<rustix::process::Pid>) -> Result<()> {
    credentials::capset(before)?;
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if credentials::set_fs_ids(ours.0, ours.1) != ours {
        return Err(Error::Host(
            "could not take the runtime's own ids back after opening a file as the user".into(),
        ));
    }
    // Changing fsuid from 0 and back has dropped and raised some capabilities; these are the ones to have.
    credentials::capset(before)?;
    groups.map_or(Ok(()), credentials::set_thread_groups)?;
    parent.map_or(Ok(()), process::die_with_parent)
}

fn not_changed(call: &str, identity: &Identity) -> Error {
    Error::Host(format!(
        "{call} to uid {} gid {} did not take effect; does a security module forbid it?",
        identity.uid, identity.gid
    ))
}

/// Becomes the user for good, in all ids and groups. Of the capabilities only those in `keep` stay (permitted and
/// effective); all others leave every set, the bounding set included. The caller must be single-threaded, and set its
/// parent-death signal again.
pub fn irrevocably_become_user(identity: &Identity, keep: u64) -> Result<()> {
    credentials::bounding_keep(keep)?;
    change_ids(identity, keep != 0)?;
    drop_capabilities(keep)?;
    audit_ids(identity)
}

/// Becomes the user for good as a workload manager makes a task: without any capability, but set-user-id programs still work for
/// him. A container client needs that of newuidmap(1). The caller must be single-threaded, and set its parent-death signal again.
pub fn irrevocably_become_user_as_tasks_are(identity: &Identity) -> Result<()> {
    change_ids(identity, false)?;
    credentials::ambient_clear()?;
    // Root's tasks have what root has.
    if identity.uid != 0 {
        give_up_capabilities()?;
    }
    audit_ids(identity)
}

fn change_ids(identity: &Identity, keep_capabilities: bool) -> Result<()> {
    let failed = |call: &str, error: nix::Error| Error::sys("become the user", call, error);
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let before = (
        Uid::effective(),
        getgroups().map_err(|error| failed("getgroups", error))?,
    );
    // Who works for himself may not even set the groups that he has.
    if before.1 != groups {
        setgroups(&groups).map_err(|error| failed("setgroups", error))?;
    }
    setresgid(gid, gid, gid).map_err(|error| failed("setresgid", error))?;
    credentials::set_keepcaps(keep_capabilities)?;
    setresuid(uid, uid, uid).map_err(|error| failed("setresuid", error))?;
    // The user may signal this process now, but not trace it and not have a core file of it, whatever
    // /proc/sys/fs/suid_dumpable says: its memory is a copy of its host's. The next exec lifts this. Who was the user before
    // has no secrets from himself.
    if before.0 != uid {
        set_dumpable(false).map_err(|error| failed("prctl(PR_SET_DUMPABLE)", error))?;
    }
    credentials::set_keepcaps(false)
}

fn audit_ids(identity: &Identity) -> Result<()> {
    let failed = |call: &str, error: nix::Error| Error::sys("become the user", call, error);
    let users = getresuid().map_err(|error| failed("getresuid", error))?;
    let groups = getresgid().map_err(|error| failed("getresgid", error))?;
    let uids = [users.real, users.effective, users.saved].map(Uid::as_raw);
    let gids = [groups.real, groups.effective, groups.saved].map(Gid::as_raw);
    if uids != [identity.uid; 3] {
        return Err(not_changed("setresuid", identity));
    }
    if gids != [identity.gid; 3] {
        return Err(not_changed("setresgid", identity));
    }
    let mut got: Vec<u32> = getgroups()
        .map_err(|error| failed("getgroups", error))?
        .into_iter()
        .map(Gid::as_raw)
        .collect();
    let mut wanted = identity.groups.clone();
    got.sort_unstable();
    wanted.sort_unstable();
    if got != wanted {
        return Err(not_changed("setgroups", identity));
    }
    Ok(())
}

/// Of all capabilities only those in `keep` stay: in the permitted and effective sets as far as they are there, and in
/// the bounding set as far as the caller has CAP_SETPCAP. The inheritable and ambient sets become empty.
pub fn drop_capabilities(keep: u64) -> Result<()> {
    let before = credentials::capget()?;
    if before.effective & Capability::CAP_SETPCAP.bitmask() != 0 {
        credentials::bounding_keep(keep)?;
    }
    credentials::ambient_clear()?;
    let kept = before.permitted & keep;
    let wanted = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    };
    credentials::capset(wanted)?;
    let forbidden = credentials::bounding() & !keep;
    if credentials::capget()? != wanted || credentials::ambient() != 0 || forbidden != 0 {
        return Err(Error::Host(format!(
            "capabilities are still there after they were dropped (bounding set {forbidden:#x})"
        )));
    }
    Ok(())
}

/// The calling thread gives up all that it can do beyond what its user can, for good. Other threads keep what they have.
/// The bounding set may stay, since nothing that is executed later gets anything from it.
pub fn surrender_thread() -> Result<()> {
    credentials::set_no_new_privs()?;
    credentials::ambient_clear()?;
    give_up_capabilities()?;
    match credentials::no_new_privs() {
        true => Ok(()),
        false => Err(Error::Host("no_new_privs did not take effect".into())),
    }
}

/// What it takes to enter namespaces that belong to the node, and to empty the bounding set afterwards.
pub const TO_ENTER: [Capability; 3] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETPCAP,
];

/// A process that is about to be made the user's by somebody else keeps its permitted capabilities. None is effective
/// then, and the first thing that it does as the user must be [`keep_what_entering_takes`].
pub fn keep_capabilities_over_change_of_user() -> Result<()> {
    credentials::set_keepcaps(true)
}

/// Of what was kept, only what entering takes stays, and none of it is effective. Nobody may trace the process until it
/// executes something.
pub fn keep_what_entering_takes() -> Result<()> {
    credentials::set_keepcaps(false)?;
    set_dumpable(false).map_err(|error| Error::sys("enter the container", "prctl(PR_SET_DUMPABLE)", error))?;
    credentials::ambient_clear()?;
    let wanted = CapabilitySets {
        permitted: credentials::capget()?.permitted & mask(&TO_ENTER),
        ..CapabilitySets::default()
    };
    set_and_check(wanted)
}

/// Makes effective what entering takes, and nothing else.
pub fn raise_what_entering_takes() -> Result<()> {
    let wanted = mask(&TO_ENTER);
    if credentials::capget()?.permitted & wanted != wanted {
        return Err(Error::Host(
            "there are no user namespaces here (user.max_user_namespaces is 0), and this task has not kept the right to \
             enter a container without one: was that changed while the step started?"
                .into(),
        ));
    }
    set_and_check(CapabilitySets {
        effective: wanted,
        permitted: wanted,
        inheritable: 0,
    })
}

/// The same for a program that the process executes before it enters: it gets nothing of that. Root's programs have what root
/// has.
pub fn give_up_what_was_kept() -> Result<()> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => give_up_capabilities(),
    }
}

fn set_and_check(wanted: CapabilitySets) -> Result<()> {
    credentials::capset(wanted)?;
    match credentials::capget()? == wanted {
        true => Ok(()),
        false => Err(Error::Host("capabilities did not change as they should".into())),
    }
}

/// None is effective, permitted or inheritable any more.
fn give_up_capabilities() -> Result<()> {
    let none = CapabilitySets::default();
    credentials::capset(none)?;
    if credentials::capget()? != none {
        return Err(Error::Host(
            "capabilities are still there after they were dropped".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{Exit, fork};

    /// What is left to a process of uid 23456: whether it has no capability, whether set-user-id programs would have some.
    fn rights(drop: fn(&Identity) -> Result<()>) -> (bool, bool) {
        let user = Identity {
            uid: 23_456,
            gid: 23_457,
            groups: vec![23_457],
        };
        let child = fork(&[], || {
            drop(&user).unwrap();
            let none = credentials::capget().unwrap() == CapabilitySets::default() && credentials::ambient() == 0;
            let of_programs = credentials::bounding() != 0 && !credentials::no_new_privs();
            u8::from(none) + 2 * u8::from(of_programs)
        });
        match child.unwrap().wait().unwrap() {
            Exit::Code(code) if code < 4 => (code & 1 == 1, code & 2 == 2),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn neither_way_to_become_the_user_leaves_a_capability() {
        assert_eq!(rights(|user| irrevocably_become_user(user, 0)), (true, false));
        assert_eq!(rights(irrevocably_become_user_as_tasks_are), (true, true));
    }

    /// As slurmstepd makes a task the user's: first the effective ids, and back, then all of them.
    fn as_slurmstepd_does() {
        let (root, user) = (Uid::from_raw(0), Uid::from_raw(23_456));
        setgroups(&[]).unwrap();
        nix::unistd::seteuid(user).unwrap();
        nix::unistd::seteuid(root).unwrap();
        let group = Gid::from_raw(23_457);
        setresgid(group, group, group).unwrap();
        setresuid(user, user, user).unwrap();
    }

    #[test]
    fn what_entering_takes_survives_the_change_of_user_and_is_gone_afterwards() {
        let child = fork(&[], || {
            keep_capabilities_over_change_of_user().unwrap();
            as_slurmstepd_does();
            keep_what_entering_takes().unwrap();
            let kept = credentials::capget().unwrap();
            assert_eq!((kept.permitted, kept.effective), (mask(&TO_ENTER), 0));
            raise_what_entering_takes().unwrap();
            assert_eq!(credentials::capget().unwrap().effective, mask(&TO_ENTER));
            drop_capabilities(0).unwrap();
            assert_eq!(credentials::capget().unwrap(), CapabilitySets::default());
            assert_eq!((credentials::bounding(), credentials::ambient()), (0, 0));
            u8::from(raise_what_entering_takes().is_ok())
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
    }

    #[test]
    fn who_has_kept_nothing_is_told_so_and_programs_before_the_container_get_nothing() {
        let child = fork(&[], || {
            as_slurmstepd_does();
            let told = raise_what_entering_takes().unwrap_err().to_string();
            u8::from(!told.contains("user.max_user_namespaces"))
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
        let child = fork(&[], || {
            keep_capabilities_over_change_of_user().unwrap();
            as_slurmstepd_does();
            keep_what_entering_takes().unwrap();
            give_up_what_was_kept().unwrap();
            u8::from(credentials::capget().unwrap() != CapabilitySets::default())
        });
        assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
    }
}
