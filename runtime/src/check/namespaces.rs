//! User namespaces: who can make them here, and what keeps others from it.
#![forbid(unsafe_code)]

use super::{Finding, Node, Subject, probe};
use crate::error::Result;
use crate::namespaces::user::{switched_off, unshare_or_explain};
use crate::plan::Identity;
use crate::privilege::irrevocably_become_user;
use nix::sched::CloneFlags;

const LIMIT: Subject = Subject::new("namespaces.limit", "limits of namespaces");
const NODE: Subject = Subject::new("namespaces.node", "user namespaces");
const USERS: Subject = Subject::new("namespaces.users", "user namespaces of users");

/// The kernel's limits of what every container needs one of, or two.
const LIMITS: [&str; 2] = ["max_user_namespaces", "max_mnt_namespaces"];
/// Fewer are too few for a node full of jobs.
const FEW: u64 = 256;

pub fn look(node: &Node<'_>) -> Vec<Finding> {
    let values = LIMITS.map(|name| (name, number(&format!("/proc/sys/user/{name}"))));
    let mut findings = vec![limit(&values)];
    if node.is_root() {
        let made = probe::attempt(&[], || {
            unshare_or_explain(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        });
        findings.push(of_node(made, switched_off()));
    }
    let user = node.somebody();
    let tried = probe::attempt(&[], || as_user(&user, node.is_root()));
    findings.push(of_users(tried, restriction().as_deref()));
    findings
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn limit(values: &[(&str, Option<u64>)]) -> Finding {
    let texts = values.iter().map(|(name, value)| match value {
        Some(value) => format!("user.{name} = {value}"),
        None => format!("user.{name} is not there"),
    });
    let fact = texts.collect::<Vec<_>>().join(", ");
    match values.iter().find(|(_, value)| value.is_none_or(|value| value < FEW)) {
        None => LIMIT.ok(fact),
        Some((name, None)) => LIMIT.warn(fact, format!("use a kernel with namespaces ({name})")),
        Some((name, _)) => LIMIT.warn(
            fact,
            format!("set user.{name} = 31000 or more (sysctl): a container takes two user and three mount namespaces"),
        ),
    }
}

fn of_node(made: Result<()>, off: bool) -> Finding {
    match made {
        Ok(()) => NODE.ok("root can make them"),
        Err(_) if off => NODE.warn(
            "switched off: images are unpacked for each container, and --container-remap-root fails",
            "set user.max_user_namespaces = 31000 (sysctl)",
        ),
        Err(error) => NODE.fail(
            error.to_string(),
            "set user.max_user_namespaces = 31000 (sysctl), or let the profile of this service or pod allow them",
        ),
    }
}

/// What a user without any capability can do: some hosts let him make the namespace but nothing in it.
fn as_user(user: &Identity, root: bool) -> Result<()> {
    if root {
        irrevocably_become_user(user, 0)?;
    }
    unshare_or_explain(CloneFlags::CLONE_NEWUSER)?;
    unshare_or_explain(CloneFlags::CLONE_NEWNS)
}

/// Jobs do not need this: their containers are made by root. Many sites forbid it with good reason.
fn of_users(made: Result<()>, restriction: Option<&str>) -> Finding {
    match (made, restriction) {
        (Ok(()), _) => USERS.ok("users can make them"),
        (Err(_), Some(restriction)) => USERS.ok(format!("not allowed ({restriction}), and jobs do not need it")),
        (Err(error), None) => USERS.ok(format!("not allowed ({error}), and jobs do not need it")),
    }
}

/// The switch that forbids it, if it is one of those that are known.
fn restriction() -> Option<String> {
    let switches = [
        ("kernel.unprivileged_userns_clone", 0),
        ("kernel.apparmor_restrict_unprivileged_userns", 1),
    ];
    let set = switches.into_iter().find(|(name, value)| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        number(&path) == Some(*value)
    });
    set.map(|(name, value)| format!("{name} = {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::error::Error;

    #[test]
    fn limits_are_judged() {
        let names = |user, mnt| [("max_user_namespaces", user), ("max_mnt_namespaces", mnt)];
        assert_eq!(limit(&names(Some(31_000), Some(31_000))).status, Status::Ok);
        let none = limit(&names(Some(0), Some(31_000)));
        assert_eq!(none.status, Status::Warn);
        assert!(none.fact.starts_with("user.max_user_namespaces = 0, "), "{none:?}");
        assert!(none.advice.unwrap().contains("user.max_user_namespaces = 31000"));
        assert!(
            limit(&names(Some(31_000), None))
                .advice
                .unwrap()
                .contains("kernel with")
        );
    }

    #[test]
    fn a_known_switch_is_named_in_place_of_the_error() {
        let refused = || Err(Error::Host("not permitted".into()));
        let known = of_users(refused(), Some("kernel.unprivileged_userns_clone = 0"));
        assert!(known.fact.contains("kernel.unprivileged_userns_clone = 0"), "{known:?}");
        assert!(of_users(refused(), None).fact.contains("not permitted"));
        assert_eq!(of_node(refused(), false).status, Status::Fail);
        assert_eq!(of_node(refused(), true).status, Status::Warn);
    }
}
