//! Lists of hosts, as `allow_http` and `NO_PROXY` have them: names, domains, addresses, networks, with or without a port.
#![forbid(unsafe_code)]

use std::net::IpAddr;

/// Whether a name without a leading dot stands for the hosts below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Only the host itself.
    Exact,
    /// The host and everything below it, as `NO_PROXY` means it.
    Domains,
}

/// True if an entry of the list means `host:port`. `host` may be an IPv6 address with or without brackets.
pub(super) fn listed<'a>(entries: impl IntoIterator<Item = &'a str>, host: &str, port: u16, names: Names) -> bool {
    let host = bare(host).to_ascii_lowercase();
    entries
        .into_iter()
        .any(|entry| matches_entry(entry.trim(), &host, port, names))
}

/// True if the host is this machine: `localhost`, 127.0.0.0/8, `::1`.
pub(super) fn is_loopback(host: &str) -> bool {
    bare(host).eq_ignore_ascii_case("localhost")
        || bare(host).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// An address without the brackets that it has in a URL.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn matches_entry(entry: &str, host: &str, port: u16, names: Names) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Some((network, length)), Ok(address)) = (split_network(entry), host.parse::<IpAddr>()) {
        return contains(network, length, address);
    }
    let (name, wanted_port) = split_port(entry);
    if wanted_port.is_some_and(|wanted| wanted != port) || name.is_empty() {
        return false;
    }
    if let (Ok(one), Ok(other)) = (name.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        return one == other;
    }
    let name = name.to_ascii_lowercase();
    let below = |domain: &str| {
        host.strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
    };
    match name
        .trim_start_matches("*.")
        .strip_prefix('.')
        .or_else(|| name.strip_prefix("*."))
    {
        Some(domain) => below(domain),
        None => name == host || (names == Names::Domains && below(&name)),
    }
}

fn split_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    match entry.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (bare(name), port.parse().ok()),
        _ => (bare(entry), None),
    }
}

fn split_network(entry: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = entry.split_once('/')?;
    let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (length <= longest).then_some((address, length))
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(length);
            network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(length);
            network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries() {
        for (entry, host, port, exact, domains) in [
            ("*", "x.org", 443, true, true),
            ("registry.org", "registry.org", 443, true, true),
            ("Registry.org", "registry.ORG", 443, true, true),
            ("registry.org", "a.registry.org", 443, false, true),
            ("registry.org", "aregistry.org", 443, false, false),
            (".registry.org", "a.registry.org", 443, true, true),
            (".registry.org", "registry.org", 443, false, false),
            ("*.registry.org", "a.b.registry.org", 443, true, true),
            ("*.registry.org", ".registry.org", 443, false, false),
            ("registry.org:5000", "registry.org", 5000, true, true),
            ("registry.org:5000", "registry.org", 443, false, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false, false),
            ("0.0.0.0/0", "11.1.2.3", 443, true, true),
            ("10.1.2.3/32", "10.1.2.3", 443, true, true),
            ("10.1.2.3/33", "10.1.2.3", 443, false, false),
            ("fd00::/8", "[fd12::1]", 443, true, true),
            ("::/0", "fd12::1", 443, true, true),
            ("::1", "[::1]", 443, true, true),
            ("[::1]:5000", "::1", 5000, true, true),
            ("[::1]:5000", "::1", 5001, false, false),
            ("127.0.0.1:80", "127.0.0.1", 80, true, true),
            ("", "x.org", 443, false, false),
            ("10.0.0.0/8", "ten.org", 443, false, false),
        ] {
            assert_eq!(listed([entry], host, port, Names::Exact), exact, "{entry} {host}");
            assert_eq!(listed([entry], host, port, Names::Domains), domains, "{entry} {host}");
        }
    }

    #[test]
    fn loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.org", "128.0.0.1", "127.0.0.1.org", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest! {
        #[test]
        fn any_entry_is_taken(entry in "\\PC{0,30}", host in "\\PC{0,30}", port: u16) {
            listed([entry.as_str()], &host, port, Names::Domains);
        }
    }
}
