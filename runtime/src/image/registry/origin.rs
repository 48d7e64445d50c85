//! Who is at the other end of a URL, and where a redirect leads: the rules that decide what may be followed and who may
//! see an `Authorization` header.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::image::printable;
use std::fmt;
use ureq::http::Uri;

/// Scheme, host and port: what must stay the same for credentials to be sent along.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// TLS or not.
    pub(super) https: bool,
    /// The host; IPv6 addresses in brackets.
    pub(super) host: String,
    /// The port, also when the URL leaves it out.
    pub(super) port: u16,
}

impl Origin {
    /// The origin of an absolute `http` or `https` URL.
    pub(super) fn of(url: &Uri) -> Option<Self> {
        let https = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = url.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
        // user:password@host is not used by any registry, and makes a URL look like another host's.
        let plain = !url.authority()?.as_str().contains('@');
        plain.then_some(Origin { https, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => f.write_str(&self.host),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where a `Location` header leads from `base`. Errors name `host`.
pub(super) fn redirect(base: &Uri, location: &str) -> Result<Uri> {
    let bad = || {
        let from = base.host().unwrap_or_default();
        Error::Image(format!(
            "{from} redirects to {:?}, which is not a URL that can be followed",
            printable(location)
        ))
    };
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let location = location.split('#').next().unwrap_or_default();
    let absolute = if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.is_empty() {
        return Err(bad());
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    let url: Uri = absolute.parse().map_err(|_| bad())?;
    let target = Origin::of(&url).ok_or_else(bad)?;
    if Origin::of(base).is_some_and(|origin| origin.https) && !target.https {
        let from = base.host().unwrap_or_default();
        return Err(Error::Image(format!(
            "{from} redirects from https to http ({target}), which is refused"
        )));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn origins() {
        let origin = |text: &str| Origin::of(&text.parse::<Uri>().unwrap());
        assert_eq!(origin("https://A.org/x"), origin("https://a.org:443/"));
        assert_ne!(origin("https://a.org/"), origin("http://a.org/"));
        assert_ne!(origin("https://a.org/"), origin("https://a.org:444/"));
        assert_eq!(origin("http://[::1]:5000/").unwrap().to_string(), "[::1]:5000");
        for text in ["ftp://a.org/", "/x", "a.org:443", "https://a.org@b.org/"] {
            assert_eq!(origin(text), None, "{text}");
        }
    }

    #[test]
    fn redirects() {
        let base: Uri = "https://a.org:5000/v2/x/blobs/y?z".parse().unwrap();
        for (location, expected) in [
            ("https://cdn.org/b?sig=1%2F2", "https://cdn.org/b?sig=1%2F2"),
            ("//cdn.org/b", "https://cdn.org/b"),
            ("/b?c=http://d", "https://a.org:5000/b?c=http://d"),
            ("b", "https://a.org:5000/v2/x/blobs/b"),
            ("https://cdn.org/b#part", "https://cdn.org/b"),
        ] {
            assert_eq!(redirect(&base, location).unwrap().to_string(), expected, "{location}");
        }
        for (location, why) in [
            ("", "not a URL that can be followed"),
            ("ftp://x/y", "not a URL that can be followed"),
            ("https://", "not a URL that can be followed"),
            ("https://u:p@x/y", "not a URL that can be followed"),
            ("file:///etc/passwd", "not a URL that can be followed"),
            (
                "http://a.org:5000/b",
                "a.org redirects from https to http (a.org:5000), which is refused",
            ),
        ] {
            let error = redirect(&base, location).unwrap_err().to_string();
            assert!(error.contains(why), "{location}: {error}");
        }
        let base: Uri = "http://a.org/x".parse().unwrap();
        assert_eq!(
            redirect(&base, "https://b.org/y").unwrap().to_string(),
            "https://b.org/y"
        );
    }

    proptest! {
        #[test]
        fn any_location_is_survived(location in "\\PC{0,60}") {
            let base: Uri = "https://a.org/x".parse().unwrap();
            if let Ok(url) = redirect(&base, &location) {
                prop_assert!(Origin::of(&url).unwrap().https);
            }
        }
    }
}
