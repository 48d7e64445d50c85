//! The identity filter: in a container only one user and one group exist, so changing owners or becoming somebody else
//! cannot work. Package managers and daemons insist on it; for them these calls succeed and do nothing.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// Calls that succeed without effect, whatever their arguments.
const ALWAYS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
];

/// Calls that do so unless their argument is -1, which is how programs ask for the id in force.
const UNLESS_QUERY: &[libc::c_long] = &[libc::SYS_setfsuid, libc::SYS_setfsgid];

/// The program. Calls of other architectures (32-bit programs) are let through as they are.
pub fn identity_filter() -> Result<Vec<sock_filter>> {
    let failed = |error: seccompiler::BackendError| Error::Host(format!("make the identity filter: {error}"));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALWAYS.iter().map(|call| (*call, Vec::new())).collect();
    for call in UNLESS_QUERY {
        let not_query = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(u32::MAX));
        let rule = SeccompRule::new(vec![not_query.map_err(failed)?]).map_err(failed)?;
        rules.insert(*call, vec![rule]);
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch).map_err(failed)?;
    let program: BpfProgram = filter.try_into().map_err(failed)?;
    Ok(allow_other_architectures(arch, program))
}

/// Offset of `arch` in struct seccomp_data.
const ARCH_OFFSET: u32 = 4;

/// The compiled program kills what is not of its architecture; these instructions in front let it pass. Jumps are
/// relative, so the program itself does not change.
fn allow_other_architectures(arch: TargetArch, program: BpfProgram) -> Vec<sock_filter> {
    // AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 of linux/audit.h.
    let audit = match arch {
        TargetArch::x86_64 => 0xC000_003E,
        TargetArch::aarch64 => 0xC000_00B7,
        TargetArch::riscv64 => 0xC000_00F3,
    };
    let instruction = |code: u32, jt, k| sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf: 0,
        k,
    };
    let mut all = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, ARCH_OFFSET),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, audit),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    all.extend(program);
    all
}
