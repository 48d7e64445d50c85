//! A registry that does what a test says: pages by path, each a function of the request, over connections that are kept.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Which connection, counted from 1.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub end: End,
}

/// How the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Whole, with its length.
    Whole,
    /// Whole, in one chunk without a length.
    Chunked,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body, and the connection stays open.
    Stall(usize),
    /// Not even a status line comes.
    Silence,
    /// The body is sent bare, without any HTTP.
    Raw,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Reply {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            end: End::Whole,
        }
    }

    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Reply {
            status,
            ..Reply::ok(body)
        }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn end(self, end: End) -> Self {
        Reply { end, ..self }
    }

    /// The registry's form of an error.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Reply::status(
            status,
            format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#),
        )
    }
}

type Page = Box<dyn FnMut(&Seen) -> Reply + Send>;

/// The registry.
#[derive(Clone)]
pub struct Fake {
    pub address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// What a connection is made of, so that TLS can be put in between.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Fake {
    /// A registry in plain http.
    pub fn start() -> Self {
        Fake::start_with(|stream| Some(Box::new(stream)))
    }

    /// A registry whose connections are wrapped; `None` hangs up.
    pub fn start_with(wrap: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Fake {
            address: listener.local_addr().unwrap(),
            pages: Arc::default(),
            seen: Arc::default(),
        };
        let (server, wrap) = (fake.clone(), Arc::new(wrap));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (server, wrap, stream) = (server.clone(), wrap.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    if let Some(stream) = wrap(stream) {
                        server.serve(BufReader::new(stream), number + 1);
                    }
                });
            }
        });
        fake
    }

    /// Sets the page for a path. Its query is left out when pages are looked up.
    pub fn page(&self, path: &str, page: impl FnMut(&Seen) -> Reply + Send + 'static) -> &Self {
        self.pages.lock().unwrap().insert(path.to_owned(), Box::new(page));
        self
    }

    /// A page that is always the same.
    pub fn fixed(&self, path: &str, reply: Reply) -> &Self {
        self.page(path, move |_| reply.clone())
    }

    /// Puts a condition before all pages that there are now.
    pub fn guard(&self, condition: impl Fn(&Seen) -> Option<Reply> + Send + Clone + 'static) -> &Self {
        let pages = std::mem::take(&mut *self.pages.lock().unwrap());
        for (path, mut page) in pages {
            let condition = condition.clone();
            self.page(&path, move |seen| condition(seen).unwrap_or_else(|| page(seen)));
        }
        self
    }

    /// Everything that was asked.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was asked, as `METHOD PATH`.
    pub fn asked(&self) -> Vec<String> {
        self.seen()
            .iter()
            .map(|seen| format!("{} {}", seen.method, seen.path))
            .collect()
    }

    fn serve(&self, mut stream: BufReader<Box<dyn Stream>>, connection: usize) {
        while let Some(seen) = read_request(&mut stream, connection) {
            self.seen.lock().unwrap().push(seen.clone());
            let path = seen.path.split('?').next().unwrap();
            let reply = match self.pages.lock().unwrap().get_mut(path) {
                Some(page) => page(&seen),
                None => Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry"),
            };
            if write_reply(stream.get_mut(), &reply, seen.method == "HEAD").is_err() {
                return;
            }
            match reply.end {
                End::Whole | End::Chunked => {}
                End::Cut(_) | End::Raw => return,
                End::Stall(_) | End::Silence => {
                    // Until the client gives up.
                    let _ = stream.read_to_end(&mut Vec::new());
                    return;
                }
            }
        }
    }
}

fn read_request(stream: &mut BufReader<Box<dyn Stream>>, connection: usize) -> Option<Seen> {
    let mut line = String::new();
    let read = stream.read_line(&mut line);
    if read.is_err() || (!line.is_empty() && !line.contains(" HTTP/1.")) {
        // A TLS greeting, for instance: what web servers say then.
        let _ = stream
            .get_mut()
            .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen {
        method,
        path,
        headers,
        body: String::new(),
        connection,
    };
    let length = seen
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).unwrap();
    Some(seen)
}

fn write_reply(stream: &mut Box<dyn Stream>, reply: &Reply, head: bool) -> std::io::Result<()> {
    if reply.end == End::Silence {
        return Ok(());
    }
    let mut bytes = Vec::new();
    if reply.end != End::Raw {
        write!(bytes, "HTTP/1.1 {} Status\r\n", reply.status)?;
        for (name, value) in &reply.headers {
            write!(bytes, "{name}: {value}\r\n")?;
        }
        match reply.end {
            End::Chunked => write!(bytes, "transfer-encoding: chunked\r\n\r\n{:x}\r\n", reply.body.len())?,
            _ => write!(bytes, "content-length: {}\r\n\r\n", reply.body.len())?,
        }
    }
    match reply.end {
        _ if head => {}
        End::Cut(count) | End::Stall(count) => bytes.extend_from_slice(&reply.body[..count]),
        _ => bytes.extend_from_slice(&reply.body),
    }
    if reply.end == End::Chunked {
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    }
    stream.write_all(&bytes)?;
    stream.flush()
}
