//! What a task has beside its namespaces and control groups, so that what runs for it has the same: resource limits, the
//! file mode mask, and the processors it may run on.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::CpuSet;

/// The resources by their names in `/proc/PID/limits` (proc_pid_limits(5)), and as getrlimit(2) has them.
const RESOURCES: [(&str, &str, Resource); 16] = [
    ("Max cpu time", "CPU", Resource::Cpu),
    ("Max file size", "FSIZE", Resource::Fsize),
    ("Max data size", "DATA", Resource::Data),
    ("Max stack size", "STACK", Resource::Stack),
    ("Max core file size", "CORE", Resource::Core),
    ("Max resident set", "RSS", Resource::Rss),
    ("Max processes", "NPROC", Resource::Nproc),
    ("Max open files", "NOFILE", Resource::Nofile),
    ("Max locked memory", "MEMLOCK", Resource::Memlock),
    ("Max address space", "AS", Resource::As),
    ("Max file locks", "LOCKS", Resource::Locks),
    ("Max pending signals", "SIGPENDING", Resource::Sigpending),
    ("Max msgqueue size", "MSGQUEUE", Resource::Msgqueue),
    ("Max nice priority", "NICE", Resource::Nice),
    ("Max realtime priority", "RTPRIO", Resource::Rtprio),
    ("Max realtime timeout", "RTTIME", Resource::Rttime),
];

/// What a task has.
#[derive(Debug)]
pub(super) struct Likeness {
    limits: Vec<(Resource, Rlimit)>,
    umask: Mode,
    processors: CpuSet,
}

impl Likeness {
    /// Looks at a process.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let failed = |call: String, error: std::io::Error| Error::sys("look at the task", call, error);
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).map_err(|error| failed(format!("read({path})"), error))
        };
        let processors = rustix::thread::sched_getaffinity(Pid::from_raw(pid))
            .map_err(|error| failed(format!("sched_getaffinity({pid})"), error.into()))?;
        Ok(Likeness {
            limits: limits(&read("limits")?),
            umask: umask(&read("status")?),
            processors,
        })
    }

    /// The task is about to lower its soft limits to these.
    pub(super) fn with_soft_limits(mut self, soft: &[(String, u64)]) -> Self {
        for (resource, limit) in &mut self.limits {
            let named = RESOURCES.iter().find(|(_, _, of)| of == resource);
            let wanted = named.and_then(|(_, name, _)| soft.iter().find(|(wanted, _)| wanted == name));
            if let Some((_, value)) = wanted {
                limit.current = lower(*value, limit.maximum);
            }
        }
        self
    }

    /// Gives the calling process the same. It may have to be root.
    pub(super) fn apply(&self) -> Result<()> {
        let failed = |call: String, error: rustix::io::Errno| Error::sys("start the entrypoint", call, error);
        for (resource, limit) in &self.limits {
            rustix::process::setrlimit(*resource, *limit)
                .map_err(|error| failed(format!("setrlimit({resource:?}, {limit:?})"), error))?;
        }
        rustix::process::umask(self.umask);
        rustix::thread::sched_setaffinity(None, &self.processors)
            .map_err(|error| failed("sched_setaffinity".to_owned(), error))
    }
}

/// The limits in a text like `/proc/PID/limits`: name, soft limit, hard limit, unit.
fn limits(text: &str) -> Vec<(Resource, Rlimit)> {
    let line = |line: &str| {
        let (rest, resource) = RESOURCES
            .iter()
            .find_map(|(name, _, resource)| Some((line.strip_prefix(name)?, *resource)))?;
        let mut numbers = rest.split_whitespace().map(number);
        let (current, maximum) = (numbers.next()??, numbers.next()??);
        Some((resource, Rlimit { current, maximum }))
    };
    text.lines().filter_map(line).collect()
}

/// A soft limit within its hard one. The largest number is no limit.
fn lower(value: u64, maximum: Option<u64>) -> Option<u64> {
    match (value, maximum) {
        (u64::MAX, maximum) => maximum,
        (value, Some(maximum)) => Some(value.min(maximum)),
        (value, None) => Some(value),
    }
}

/// A limit; no number is no limit.
#[allow(clippy::option_option)]
fn number(word: &str) -> Option<Option<u64>> {
    match word {
        "unlimited" => Some(None),
        word => word.parse().ok().map(Some),
    }
}

/// The mask in a text like `/proc/PID/status`; what a daemon has where the kernel does not tell (before Linux 4.7).
fn umask(status: &str) -> Mode {
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let mask = mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
    Mode::from_raw_mode(mask.unwrap_or(0o022))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max core file size        0                    unlimited            bytes     \n\
                    Max open files            1024                 4096                 files     \n\
                    Max something new         1                    2                    things    \n\
                    Max nice priority         0                    0                    \n";
        let got: Vec<_> = limits(text)
            .into_iter()
            .map(|(resource, limit)| (format!("{resource:?}"), limit.current, limit.maximum))
            .collect();
        let one = |name: &str, soft, hard| (name.to_owned(), soft, hard);
        let wanted = [
            one("Cpu", None, None),
            one("Core", Some(0), None),
            one("Nofile", Some(1024), Some(4096)),
            one("Nice", Some(0), Some(0)),
        ];
        assert_eq!(got, wanted);
        assert_eq!(umask("Name:\tsh\nUmask:\t0077\n"), Mode::from_raw_mode(0o077));
        assert_eq!(umask("Name:\tsh\n"), Mode::from_raw_mode(0o022));
    }

    #[test]
    fn soft_limits_stay_within_the_hard_ones() {
        assert_eq!(
            (lower(5, None), lower(5, Some(3)), lower(5, Some(9))),
            (Some(5), Some(3), Some(5))
        );
        assert_eq!((lower(u64::MAX, None), lower(u64::MAX, Some(3))), (None, Some(3)));
        let own = Likeness::of(std::process::id().cast_signed()).unwrap();
        let own = own.with_soft_limits(&[("CORE".to_owned(), 7), ("NONE".to_owned(), 1)]);
        let core = own.limits.iter().find(|(resource, _)| *resource == Resource::Core);
        assert_eq!(core.unwrap().1.current, lower(7, core.unwrap().1.maximum));
    }

    #[test]
    fn all_of_this_process_is_found() {
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(limits(&own).len(), RESOURCES.len());
    }
}
