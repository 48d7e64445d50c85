//! Why a request failed, in words for people, and whether asking again can help. The HTTP library's errors end here.
#![forbid(unsafe_code)]

use super::origin::Origin;
use crate::error::Error;
use crate::image::printable;
use std::io::ErrorKind;
use std::time::Duration;

/// A request that got no usable answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// What to tell.
    pub(super) error: Error,
    /// What to do.
    pub(super) kind: Kind,
}

/// What can be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Final,
    /// The connection was lost: ask again.
    Lost,
    /// The server is overloaded or broken: ask again, after this pause if it named one.
    Busy(Option<Duration>),
    /// The server sent nothing for long; a part of a layer that is there already is worth another connection.
    Stalled,
    /// Nobody listens at this port.
    Refused,
    /// The other scheme may be spoken here (http instead of https, or the reverse).
    OtherScheme,
}

impl Failure {
    pub(super) fn is_final(error: Error) -> Self {
        Failure {
            error,
            kind: Kind::Final,
        }
    }
}

/// What a request was about, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// Whom we talk to.
    pub(super) origin: &'a Origin,
    /// Through which proxy, without its password.
    pub(super) proxy: Option<&'a str>,
    /// What was wanted: "the manifest of library/debian:12".
    pub(super) what: &'a str,
    /// How long a connection may take.
    pub(super) connect_timeout: Duration,
    /// How long nothing may come.
    pub(super) stall_timeout: Duration,
}

/// Marks a failed name look-up, which the HTTP library does not tell from other I/O errors.
#[derive(Debug)]
pub(super) struct LookupFailed(pub(super) String);

impl std::fmt::Display for LookupFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LookupFailed {}

impl Circumstances<'_> {
    /// Sorts an error of the HTTP library.
    pub(super) fn explain(&self, error: ureq::Error) -> Failure {
        let (host, what) = (self.origin, self.what);
        match error {
            ureq::Error::Timeout(reason) => self.timeout(reason),
            ureq::Error::Io(error) => self.io(error),
            ureq::Error::Rustls(error) => self.tls(&error),
            ureq::Error::HostNotFound => self.no_such_host("no address"),
            ureq::Error::Other(error) if error.is::<LookupFailed>() => self.no_such_host(&error.to_string()),
            ureq::Error::Protocol(error) => Failure {
                error: Error::Image(format!(
                    "{host} does not answer in HTTP when asked for {what}: {}",
                    printable(&error.to_string())
                )),
                kind: Kind::OtherScheme,
            },
            ureq::Error::ConnectProxyFailed(why) => Failure::is_final(Error::Host(format!(
                "{} does not connect to {host}: {}",
                self.peer(),
                printable(&why)
            ))),
            other => Failure::is_final(Error::Image(format!(
                "asking {host} for {what} failed: {}",
                printable(&other.to_string())
            ))),
        }
    }

    /// Whom the connection goes to.
    fn peer(&self) -> String {
        match self.proxy {
            Some(proxy) => format!("the proxy {proxy}"),
            None => self.origin.to_string(),
        }
    }

    fn timeout(&self, reason: ureq::Timeout) -> Failure {
        let (host, what) = (self.origin, self.what);
        let stall = seconds(self.stall_timeout);
        match reason {
            ureq::Timeout::Resolve | ureq::Timeout::Connect => Failure::is_final(Error::Image(format!(
                "no connection to {} within {}",
                self.peer(),
                seconds(self.connect_timeout)
            ))),
            ureq::Timeout::PerRead | ureq::Timeout::PerWrite => Failure {
                error: Error::Image(format!("{host} sent nothing for {stall} when asked for {what}")),
                kind: Kind::Stalled,
            },
            _ => Failure::is_final(Error::Image(format!("{host} takes too long to send {what}"))),
        }
    }

    fn io(&self, error: std::io::Error) -> Failure {
        let (host, what) = (self.origin, self.what);
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return self.tls(error);
        }
        match error.kind() {
            ErrorKind::ConnectionRefused => Failure {
                error: Error::Image(format!("connection refused by {}: nothing listens there", self.peer())),
                kind: Kind::Refused,
            },
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof => Failure {
                error: Error::Image(format!("{host} closed the connection before it had sent {what}")),
                kind: Kind::Lost,
            },
            _ => Failure::is_final(Error::Image(format!(
                "no connection to {}: {}",
                self.peer(),
                printable(&error.to_string())
            ))),
        }
    }

    fn no_such_host(&self, why: &str) -> Failure {
        let host = match self.proxy {
            Some(proxy) => format!("{proxy} (the proxy for {})", self.origin),
            None => self.origin.host.clone(),
        };
        Failure::is_final(Error::Request(format!("no such host: {host} ({})", printable(why))))
    }

    fn tls(&self, error: &rustls::Error) -> Failure {
        use rustls::CertificateError as Bad;
        let host = self.origin;
        let bad_name = || Error::Image(format!("the certificate of {host} is not for that name"));
        let error = match error {
            rustls::Error::InvalidCertificate(bad) => match bad {
                // Another authority of the same name gives a bad signature.
                Bad::UnknownIssuer | Bad::BadSignature => Error::Host(format!(
                    "the certificate of {host} is signed by an authority that is not known here: add that CA to the \
                     system's certificates or set SSL_CERT_FILE"
                )),
                Bad::Expired | Bad::ExpiredContext { .. } => Error::Image(format!(
                    "the certificate of {host} has expired (or the clock of this machine is wrong)"
                )),
                Bad::NotValidYet | Bad::NotValidYetContext { .. } => Error::Image(format!(
                    "the certificate of {host} is not valid yet (is this machine's clock wrong?)"
                )),
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => bad_name(),
                other => Error::Image(format!(
                    "the certificate of {host} is refused: {}",
                    printable(&format!("{other}"))
                )),
            },
            rustls::Error::InvalidMessage(_) => {
                return Failure {
                    error: Error::Image(format!("{host} does not speak TLS; plain http is not allowed for it")),
                    kind: Kind::OtherScheme,
                };
            }
            other => Error::Image(format!(
                "no TLS connection to {host}: {}",
                printable(&other.to_string())
            )),
        };
        Failure::is_final(error)
    }
}

/// A duration for a message: whole seconds where it has some.
pub(super) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds => format!("{seconds} s"),
    }
}
