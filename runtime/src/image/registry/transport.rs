//! One HTTP request and what belongs to it: connections that are kept, proxies, repetition when the reason passes,
//! redirects under rules, time limits. Who may see an `Authorization` header is decided here and nowhere else.
#![forbid(unsafe_code)]

use super::failure::{Circumstances, Failure, Kind, LookupFailed, seconds};
use super::origin::{self, Origin};
use super::settings::{RegistryConfig, without_password};
use super::tls;
use crate::error::Error;
use crate::image::Result;
use crate::image::{Secret, printable};
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{HeaderMap, HeaderValue, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, BodyReader, config::Config, tls::TlsConfig};

/// A chain of redirects longer than this leads nowhere.
const MAX_REDIRECTS: usize = 5;
/// How much of an answer that is not used is read, so that its connection can be kept.
const MAX_DRAIN: u64 = 64 << 10;

/// A request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    /// What is wanted, for messages: "the manifest of library/debian:12".
    pub(super) what: &'a str,
    /// The `Accept` header.
    pub(super) accept: Option<&'a str>,
    /// The `Authorization` header. It is sent to the origin of the URL and to no other.
    pub(super) authorization: Option<&'a Secret>,
    /// The first byte that is wanted (`Range`).
    pub(super) from: u64,
    /// Only the headers are wanted (HEAD).
    pub(super) head: bool,
    /// A form to POST. Such a request is not redirected.
    pub(super) form: Option<&'a Secret>,
    /// How long the whole exchange may take.
    pub(super) limit: Option<Duration>,
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// Who answered, after redirects.
    pub(super) origin: Origin,
    /// Somebody else than was asked.
    pub(super) redirected: bool,
    pub(super) body: BodyReader<'static>,
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads the beginning of the body, at most `limit` bytes. It also makes the connection free for the next request.
    pub(super) fn beginning(self, limit: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        // What cannot be read of an error's explanation is left out; the status has been told.
        let _ = self.body.take(limit).read_to_end(&mut bytes);
        bytes
    }

    /// The registry's own words for an error, made fit for a message: its `errors[0].message`, or nothing.
    pub(super) fn message(self) -> Option<(String, String)> {
        #[derive(serde::Deserialize)]
        struct Document {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            code: Option<String>,
            message: Option<String>,
        }
        let document: Document = serde_json::from_slice(&self.beginning(MAX_DRAIN)).ok()?;
        let first = document.errors.into_iter().next()?;
        Some((
            printable(&first.code.unwrap_or_default()),
            printable(&first.message.unwrap_or_default()),
        ))
    }
}

/// Connections to registries. One agent (a pool of connections) per kind of connection, made when it is first needed.
pub(super) struct Transport {
    pub(super) config: RegistryConfig,
    notify: Notify,
    agents: Mutex<Agents>,
}

/// Is told why there is a pause: a server that wants to be left alone, a connection that was lost.
pub(super) type Notify = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Agents {
    made: Vec<((bool, Option<String>), Agent)>,
    tls: Option<TlsConfig>,
}

impl Transport {
    pub(super) fn new(config: RegistryConfig, notify: Notify) -> Self {
        Transport {
            config,
            notify,
            agents: Mutex::default(),
        }
    }

    /// Sends a request and follows redirects. Any status but a redirect or a passing failure is an answer.
    pub(super) fn send(&self, url: &Uri, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let first = self.origin(url).map_err(Failure::is_final)?;
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let origin = self.origin(&url).map_err(Failure::is_final)?;
            let authorization = ask.authorization.filter(|_| origin == first);
            let answer = self.hop(&url, &origin, &Ask { authorization, ..*ask })?;
            let redirected = matches!(answer.status, 301 | 302 | 303 | 307 | 308) && ask.form.is_none();
            let Some(location) = answer.header("location").filter(|_| redirected) else {
                return Ok(Answer {
                    redirected: origin != first,
                    ..answer
                });
            };
            url = origin::redirect(&url, location).map_err(Failure::is_final)?;
            answer.beginning(MAX_DRAIN);
        }
        Err(Failure::is_final(Error::Image(format!(
            "{first} redirects more than {MAX_REDIRECTS} times for {}",
            ask.what
        ))))
    }

    /// Plain http is spoken only where it is allowed, also when a redirect leads there.
    fn origin(&self, url: &Uri) -> Result<Origin> {
        let origin =
            Origin::of(url).ok_or_else(|| Error::Image(format!("{:?} is not an http URL", url.to_string())))?;
        if !origin.https && !self.config.allow_http.allows(&origin.host, origin.port) {
            return Err(Error::Image(format!("plain http is not allowed for {origin}")));
        }
        Ok(origin)
    }

    /// One request without redirects, repeated while the reason of its failure may pass.
    fn hop(&self, url: &Uri, origin: &Origin, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let mut attempt = 0;
        loop {
            let failure = match self.once(url, origin, ask) {
                Ok(answer) if !is_passing(answer.status) => return Ok(answer),
                Ok(answer) => self.busy(answer, origin, ask, attempt + 1),
                Err(failure) => failure,
            };
            match failure.kind {
                Kind::Busy(Some(pause)) if attempt < self.config.retries => self.wait(&failure.error, pause),
                Kind::Busy(None) | Kind::Lost if attempt < self.config.retries => {
                    self.wait(&failure.error, self.backoff(attempt));
                }
                _ => return Err(failure),
            }
            attempt += 1;
        }
    }

    fn once(&self, url: &Uri, origin: &Origin, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let proxy = self.config.proxies.choose(origin.https, &origin.host, origin.port);
        let agent = self.agent(origin.https, proxy).map_err(Failure::is_final)?;
        let response = perform(&agent, url, ask).map_err(|error| self.explain(origin, ask.what, error))?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            origin: origin.clone(),
            redirected: false,
            body: body.into_reader(),
        })
    }

    /// Sorts an error of a request to `origin` or of reading its answer.
    pub(super) fn explain(&self, origin: &Origin, what: &str, error: ureq::Error) -> Failure {
        let proxy = self
            .config
            .proxies
            .choose(origin.https, &origin.host, origin.port)
            .map(without_password);
        let circumstances = Circumstances {
            origin,
            proxy,
            what,
            connect_timeout: self.config.connect_timeout,
            stall_timeout: self.config.stall_timeout,
        };
        circumstances.explain(error)
    }

    /// The failure that an overloaded or broken server's answer is.
    fn busy(&self, answer: Answer, origin: &Origin, ask: &Ask<'_>, times: u32) -> Failure {
        let status = answer.status;
        let pause = answer
            .header("retry-after")
            .and_then(|text| text.trim().parse().ok())
            .map(Duration::from_secs);
        let words = answer
            .message()
            .map(|(_, message)| format!(": {message}"))
            .unwrap_or_default();
        let times = if times > 1 {
            format!(", {times} times")
        } else {
            String::new()
        };
        let (what, reason) = (ask.what, reason(status));
        let error = format!("{origin} answers {status} ({reason}) when asked for {what}{times}{words}");
        match pause {
            Some(pause) if pause > self.config.max_retry_after => {
                let pause = seconds(pause);
                Failure::is_final(Error::Image(format!("{error}; it says to come back in {pause}")))
            }
            pause => Failure {
                error: Error::Image(error),
                kind: Kind::Busy(pause),
            },
        }
    }

    /// Pauses before something is asked for again, and tells why.
    pub(super) fn wait(&self, why: &Error, pause: Duration) {
        (self.notify)(&format!("{why}; asking again in {}", seconds(pause)));
        std::thread::sleep(pause);
    }

    /// Doubling pauses, spread so that a thousand nodes do not come back in one moment.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        use std::hash::{BuildHasher as _, Hasher as _};
        let base = self.config.retry_delay.saturating_mul(1 << attempt.min(6));
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish() % 1000;
        base.saturating_mul(u32::try_from(500 + random).unwrap_or(1000)) / 1000
    }

    fn agent(&self, https: bool, proxy: Option<&str>) -> Result<Agent> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (https, proxy.map(str::to_owned));
        if let Some((_, agent)) = agents.made.iter().find(|(made, _)| *made == key) {
            return Ok(agent.clone());
        }
        let parsed = proxy.map(parse_proxy).transpose()?;
        let proxy_needs_tls = parsed
            .as_ref()
            .is_some_and(|proxy| proxy.protocol() == ureq::ProxyProtocol::Https);
        let tls = match (&agents.tls, https || proxy_needs_tls) {
            (_, false) => None,
            (Some(tls), true) => Some(tls.clone()),
            (None, true) => Some(agents.tls.insert(tls::load(&self.config)?).clone()),
        };
        let agent = self.make_agent(parsed, tls);
        agents.made.push((key, agent.clone()));
        Ok(agent)
    }

    fn make_agent(&self, proxy: Option<ureq::Proxy>, tls: Option<TlsConfig>) -> Agent {
        let config = &self.config;
        let builder = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .user_agent(concat!("pyxis/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            .timeout_per_read(Some(config.stall_timeout))
            .timeout_per_write(Some(config.stall_timeout))
            .max_idle_connections(config.max_connections.saturating_mul(2))
            .max_idle_connections_per_host(config.max_connections);
        let builder = match tls {
            Some(tls) => builder.tls_config(tls),
            None => builder,
        };
        Agent::with_parts(builder.build(), DefaultConnector::default(), NamingResolver::default())
    }
}

fn perform(agent: &Agent, url: &Uri, ask: &Ask<'_>) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    let mut headers = HeaderMap::new();
    if let Some(accept) = ask.accept {
        headers.insert(
            "accept",
            HeaderValue::from_str(accept).map_err(|error| ureq::Error::Http(error.into()))?,
        );
    }
    if let Some(secret) = ask.authorization {
        let mut value = HeaderValue::from_str(secret.expose()).map_err(|error| ureq::Error::Http(error.into()))?;
        value.set_sensitive(true);
        headers.insert("authorization", value);
    }
    if ask.from > 0 {
        let range = format!("bytes={}-", ask.from);
        headers.insert(
            "range",
            HeaderValue::from_str(&range).map_err(|error| ureq::Error::Http(error.into()))?,
        );
    }
    match ask.form {
        None => {
            let mut request = if ask.head {
                agent.head(url.clone())
            } else {
                agent.get(url.clone())
            };
            if let Some(all) = request.headers_mut() {
                all.extend(headers);
            }
            request.config().timeout_global(ask.limit).build().call()
        }
        Some(form) => {
            let mut request = agent
                .post(url.clone())
                .content_type("application/x-www-form-urlencoded");
            if let Some(all) = request.headers_mut() {
                all.extend(headers);
            }
            request.config().timeout_global(ask.limit).build().send(form.expose())
        }
    }
}

/// The default resolver, with look-up errors told from connection errors.
#[derive(Debug, Default)]
struct NamingResolver(DefaultResolver);

impl Resolver for NamingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(error) => {
                let text = error.to_string();
                let words = text
                    .strip_prefix("failed to lookup address information: ")
                    .unwrap_or(&text);
                ureq::Error::Other(Box::new(LookupFailed(words.to_owned())))
            }
            other => other,
        })
    }
}

fn parse_proxy(text: &str) -> Result<ureq::Proxy> {
    let shown = without_password(text);
    // The HTTP library panics on a socks proxy that it was built without.
    if text.to_ascii_lowercase().starts_with("socks") {
        return Err(Error::Host(format!(
            "the proxy {shown} is not supported: only http:// and https:// proxies are"
        )));
    }
    ureq::Proxy::new(text).map_err(|_| Error::Host(format!("the proxy {shown} is not a URL such as http://HOST:PORT")))
}

/// Statuses that may be different in a moment.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

fn reason(status: u16) -> &'static str {
    match status {
        429 => "too many requests",
        other => {
            let known = ureq::http::StatusCode::from_u16(other)
                .ok()
                .and_then(|status| status.canonical_reason());
            known.unwrap_or("unknown status")
        }
    }
}
