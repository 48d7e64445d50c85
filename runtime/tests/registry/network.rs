//! What networks do: hosts that are not there, connections that stall or drop, servers that are overloaded, proxies.
#![forbid(unsafe_code)]

use super::fake::{End, Fake, Reply, Seen};
use super::image::{Image, host, one_line, pull, reference, refusal, serve};
use super::settings;
use pyxis_runtime::image::registry::{AllowHttp, Proxies};
use pyxis_runtime::image::{BlobReader, Client, NoCredentials, RegistryConfig};
use pyxis_runtime::reference::Reference;
use pyxis_runtime::{Digest, Error};
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

fn pushed(layers: &[&[u8]]) -> (Fake, Image) {
    let (fake, image) = (Fake::start(), Image::new(layers));
    image.push(&fake);
    (fake, image)
}

fn error(reference: &str, config: RegistryConfig) -> Error {
    let reference: Reference = reference.parse().unwrap();
    let client = Client::new(config);
    client
        .repository(&reference, &NoCredentials)
        .resolve_manifest(&host())
        .unwrap_err()
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = error(&format!("{address}#a/b"), settings());
    assert!(matches!(error, Error::Image(_)));
    assert_eq!(
        one_line(&error.to_string()),
        "connection refused by HOST: nothing listens there"
    );
}

#[test]
fn no_such_host() {
    // RFC 6761: names below .invalid never resolve.
    let error = error("registry.invalid#a/b", settings());
    assert!(matches!(error, Error::Request(_)));
    assert!(
        error.to_string().starts_with("no such host: registry.invalid ("),
        "{error}"
    );
}

#[test]
fn nobody_answers_the_connection() {
    // A listener whose queue is full does not answer.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queue.push(stream);
    }
    let config = RegistryConfig {
        connect_timeout: Duration::from_millis(100),
        ..settings()
    };
    let error = error(&format!("{address}#a/b"), config);
    assert_eq!(one_line(&error.to_string()), "no connection to HOST within 100 ms");
}

#[test]
fn a_registry_that_says_nothing() {
    let (fake, _) = pushed(&[b"layer"]);
    let config = RegistryConfig {
        stall_timeout: Duration::from_millis(500),
        ..settings()
    };
    fake.fixed("/v2/a/b/manifests/1", Reply::ok("").end(End::Silence));
    let error = error(&format!("{}#a/b:1", fake.address), config);
    assert!(matches!(error, Error::Image(_)));
    assert_eq!(
        one_line(&error.to_string()),
        "HOST sent nothing for 500 ms when asked for the manifest of a/b:1"
    );
    assert!(fake.asked().len() <= 1);
}

#[test]
fn a_manifest_that_stops_in_the_middle() {
    let (fake, image) = pushed(&[b"layer"]);
    let config = RegistryConfig {
        stall_timeout: Duration::from_millis(500),
        ..settings()
    };
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::ok(image.manifest.clone()).end(End::Stall(10)),
    );
    let error = error(&format!("{}#a/b:1", fake.address), config);
    assert_eq!(
        one_line(&error.to_string()),
        "HOST sent nothing for 500 ms when asked for the manifest of a/b:1"
    );
}

#[test]
fn a_layer_that_stalls_is_asked_for_again_and_then_given_up() {
    let (fake, image) = pushed(&[b"0123456789"]);
    fake.page(&image.layer_page(0), |seen| {
        let rest = serve(b"0123456789", seen.header("range"));
        let sent = usize::from(seen.header("range").is_none()) * 4;
        rest.end(End::Stall(sent))
    });
    let reference = reference(&fake);
    let resolved = Client::new(settings())
        .repository(&reference, &NoCredentials)
        .resolve(&host())
        .unwrap();
    let hasty = Client::new(RegistryConfig {
        stall_timeout: Duration::from_secs(2),
        retries: 1,
        ..settings()
    });
    let repository = hasty.repository(&reference, &NoCredentials);
    let mut bytes = Vec::new();
    let error = repository
        .open_layer(&resolved.layers[0])
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap_err();
    let error = BlobReader::error(error);
    assert_eq!(
        one_line(&error.to_string()),
        format!(
            "4 of 10 bytes came: HOST sent nothing for 2 s when asked for layer {}",
            Digest::of(b"0123456789")
        )
    );
    assert_eq!(bytes, b"0123");
    let ranges: Vec<_> = fake
        .seen()
        .iter()
        .filter(|seen| seen.path == image.layer_page(0))
        .map(range)
        .collect();
    assert_eq!(ranges, ["", "bytes=4-"]);
}

fn range(seen: &Seen) -> String {
    seen.header("range").unwrap_or_default().to_owned()
}

#[test]
fn a_dropped_layer_is_taken_up_where_it_broke_off() {
    let big: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    let (fake, image) = pushed(&[&big]);
    let mut cuts = vec![100_000, 300_001, 0];
    let served = big.clone();
    fake.page(&image.layer_page(0), move |seen| {
        let reply = serve(&served, seen.header("range"));
        cuts.pop().map_or(reply.clone(), |cut| reply.end(End::Cut(cut)))
    });
    let config = RegistryConfig {
        retries: 3,
        ..settings()
    };
    let (_, layers) = pull(&reference(&fake), config, &NoCredentials).unwrap();
    assert_eq!(layers, [big]);
    let ranges: Vec<_> = fake
        .seen()
        .iter()
        .filter(|seen| seen.path == image.layer_page(0))
        .map(range)
        .collect();
    // The first connection broke before a byte came.
    assert_eq!(ranges, ["", "", "bytes=300001-", "bytes=400001-"]);
}

#[test]
fn a_server_without_ranges_is_read_again_from_the_start() {
    let (fake, image) = pushed(&[b"0123456789"]);
    let mut cuts = vec![7, 4];
    fake.page(&image.layer_page(0), move |_| {
        let reply = Reply::ok("0123456789");
        cuts.pop().map_or(reply.clone(), |cut| reply.end(End::Cut(cut)))
    });
    let (_, layers) = pull(&reference(&fake), settings(), &NoCredentials).unwrap();
    assert_eq!(layers, [b"0123456789"]);
}

#[test]
fn a_layer_that_always_drops_is_given_up() {
    let (fake, image) = pushed(&[b"0123456789"]);
    fake.page(&image.layer_page(0), |seen| {
        serve(b"0123456789", seen.header("range")).end(End::Cut(1))
    });
    assert_eq!(
        refusal(&fake),
        format!(
            "3 of 10 bytes came: HOST closed the connection before it had sent layer {}",
            Digest::of(b"0123456789")
        )
    );
}

#[test]
fn progress_makes_drops_forgivable() {
    // Every connection brings 1 MiB and drops: more times than a connection without progress would be repeated.
    let big = vec![7; 6 << 20];
    let (fake, image) = pushed(&[&big]);
    let served = big.clone();
    fake.page(&image.layer_page(0), move |seen| {
        let reply = serve(&served, seen.header("range"));
        let cut = reply.body.len().min(1 << 20);
        reply.end(End::Cut(cut))
    });
    let config = RegistryConfig {
        retries: 1,
        ..settings()
    };
    let (_, layers) = pull(&reference(&fake), config, &NoCredentials).unwrap();
    assert!(layers[0] == big);
}

#[test]
fn a_dropped_manifest_is_asked_for_again() {
    let (fake, image) = pushed(&[b"layer"]);
    let mut ends = vec![End::Whole, End::Cut(5), End::Cut(0)];
    let manifest = image.manifest.clone();
    fake.page("/v2/a/b/manifests/1", move |_| {
        Reply::ok(manifest.clone()).end(ends.pop().unwrap())
    });
    pull(&reference(&fake), settings(), &NoCredentials).unwrap();
    fake.fixed("/v2/a/b/manifests/1", Reply::ok("xx").end(End::Cut(1)));
    assert_eq!(
        refusal(&fake),
        "HOST closed the connection before it had sent the manifest of a/b:1"
    );
}

#[test]
fn an_overloaded_registry_is_asked_again() {
    for status in [408, 429, 500, 502, 503, 504] {
        let (fake, image) = pushed(&[b"layer"]);
        let mut left = 2;
        let (layer, busy) = (
            image.layers[0].clone(),
            Reply::error(status, "BUSY", "later").header("Retry-After", "0"),
        );
        fake.page(&image.layer_page(0), move |_| {
            left -= 1;
            if left >= 0 {
                busy.clone()
            } else {
                Reply::ok(layer.clone())
            }
        });
        pull(&reference(&fake), settings(), &NoCredentials).unwrap();
    }
}

#[test]
fn pauses_are_told() {
    let (fake, image) = pushed(&[b"0123456789"]);
    let mut replies = vec![
        Reply::ok(image.manifest.clone()),
        Reply::status(503, "").header("Retry-After", "0"),
    ];
    fake.page("/v2/a/b/manifests/1", move |_| replies.pop().unwrap());
    fake.page(&image.layer_page(0), |seen| {
        let reply = serve(b"0123456789", seen.header("range"));
        if seen.header("range").is_none() {
            reply.end(End::Cut(4))
        } else {
            reply
        }
    });
    let (sender, notices) = std::sync::mpsc::channel();
    let config = RegistryConfig {
        retry_delay: Duration::ZERO,
        ..settings()
    };
    let client = Client::with_notices(config, move |notice| sender.send(one_line(notice)).unwrap());
    let reference = reference(&fake);
    let repository = client.repository(&reference, &NoCredentials);
    let resolved = repository.resolve(&host()).unwrap();
    repository
        .open_layer(&resolved.layers[0])
        .unwrap()
        .read_to_end(&mut Vec::new())
        .unwrap();
    let expected = [
        "HOST answers 503 (Service Unavailable) when asked for the manifest of a/b:1; asking again in 0 ms".to_owned(),
        format!(
            "HOST closed the connection before it had sent layer {}; asking again in 0 ms",
            Digest::of(b"0123456789")
        ),
    ];
    assert_eq!(notices.try_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn an_overloaded_registry_is_not_asked_for_ever() {
    let (fake, _) = pushed(&[b"layer"]);
    let page = "/v2/a/b/manifests/1";
    fake.fixed(
        page,
        Reply::error(429, "TOOMANYREQUESTS", "You have reached your pull rate limit."),
    );
    let error = refusal(&fake);
    assert_eq!(
        error,
        "HOST answers 429 (too many requests) when asked for the manifest of a/b:1, 3 times: You have reached your pull \
         rate limit."
    );
    fake.fixed(page, Reply::status(429, "").header("Retry-After", "3600"));
    let before = fake.asked().len();
    let error = refusal(&fake);
    assert_eq!(
        error,
        "HOST answers 429 (too many requests) when asked for the manifest of a/b:1; it says to come back in 3600 s"
    );
    assert_eq!(fake.asked().len(), before + 1);
    fake.fixed(page, Reply::status(503, "<html>"));
    assert_eq!(
        refusal(&fake),
        "HOST answers 503 (Service Unavailable) when asked for the manifest of a/b:1, 3 times"
    );
}

#[test]
fn something_else_than_http() {
    let (fake, _) = pushed(&[b"layer"]);
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::ok("SSH-2.0-OpenSSH_9.2\r\n\r\n").end(End::Raw),
    );
    let config = RegistryConfig {
        allow_http: AllowHttp::All,
        ..settings()
    };
    let error = error(&format!("{}#a/b:1", fake.address), config);
    // It was tried in http, then over TLS.
    let expected = "HOST does not answer in HTTP when asked for the manifest of a/b:1: ";
    assert!(one_line(&error.to_string()).starts_with(expected), "{error}");
}

#[test]
fn unknown_images_and_tags() {
    let (fake, _) = pushed(&[b"layer"]);
    assert_eq!(
        refusal(&fake_without_manifest(&fake)),
        "image a/b on registry HOST has no tag 1, only: 12, 13"
    );
    fake.fixed("/v2/a/b/tags/list", Reply::ok(r#"{"name":"a/b","tags":null}"#));
    assert_eq!(refusal(&fake), "image a/b on registry HOST has no tag 1");
    let tags: Vec<String> = (0..9).map(|tag| format!("\"t{tag}\\n\"")).collect();
    fake.fixed(
        "/v2/a/b/tags/list",
        Reply::ok(format!(r#"{{"tags":[{}]}}"#, tags.join(","))),
    );
    let expected = "image a/b on registry HOST has no tag 1, only: t0, t1, t2, t3, t4, t5, t6, t7, ...";
    assert_eq!(refusal(&fake), expected);
    fake.fixed("/v2/a/b/tags/list", Reply::error(404, "NAME_UNKNOWN", ""));
    assert_eq!(refusal(&fake), "registry HOST has no image a/b");
    fake.fixed("/v2/a/b/tags/list", Reply::status(405, ""));
    assert_eq!(refusal(&fake), "registry HOST has no a/b:1: unknown image or tag");
    let empty = Fake::start();
    assert_eq!(refusal(&empty), "registry HOST has no image a/b");
    let digest = Digest::of(b"x");
    fake.fixed(
        &format!("/v2/a/b/manifests/{digest}"),
        Reply::error(404, "MANIFEST_UNKNOWN", ""),
    );
    let error = error(&format!("{}#a/b@{digest}", fake.address), settings());
    assert!(matches!(error, Error::Request(_)));
    assert_eq!(
        one_line(&error.to_string()),
        format!("registry HOST has no manifest {digest} of a/b")
    );
}

fn fake_without_manifest(fake: &Fake) -> Fake {
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    );
    fake.fixed("/v2/a/b/tags/list", Reply::ok(r#"{"name":"a/b","tags":["12","13"]}"#));
    fake.clone()
}

#[test]
fn redirects_that_are_not_followed() {
    let (fake, image) = pushed(&[b"layer"]);
    let layer = Digest::of(b"layer");
    fake.fixed(
        &image.layer_page(0),
        Reply::status(307, "").header("Location", image.layer_page(0)),
    );
    assert_eq!(
        refusal(&fake),
        format!("HOST redirects more than 5 times for layer {layer} of a/b:1")
    );
    fake.fixed(&image.layer_page(0), Reply::status(307, ""));
    assert_eq!(
        refusal(&fake),
        format!("HOST answers 307 when asked for layer {layer} of a/b:1")
    );
    fake.fixed(
        &image.layer_page(0),
        Reply::status(307, "").header("Location", "http://169.254.169.254/latest"),
    );
    assert_eq!(refusal(&fake), "plain http is not allowed for 169.254.169.254");
    fake.fixed(
        &image.layer_page(0),
        Reply::status(307, "").header("Location", "file:///etc/passwd"),
    );
    assert_eq!(
        refusal(&fake),
        "127.0.0.1 redirects to \"file:///etc/passwd\", which is not a URL that can be followed"
    );
}

#[test]
fn transfers_may_have_a_limit() {
    let (fake, image) = pushed(&[b"0123456789"]);
    fake.fixed(&image.layer_page(0), Reply::ok("0123456789"));
    let config = RegistryConfig {
        transfer_timeout: Some(Duration::ZERO),
        ..settings()
    };
    let (client, reference) = (Client::new(config), reference(&fake));
    let repository = client.repository(&reference, &NoCredentials);
    let manifest = repository.resolve_manifest(&host()).unwrap();
    let error = repository.fetch_config(&manifest).unwrap_err().to_string();
    assert!(
        error.ends_with("is not complete after 0 ms (the time limit for one transfer)"),
        "{error}"
    );
}

#[test]
fn http_is_not_spoken_where_it_is_not_allowed() {
    let (fake, _) = pushed(&[b"layer"]);
    let config = RegistryConfig {
        allow_http: AllowHttp::Hosts(Vec::new()),
        ..settings()
    };
    let error = error(&format!("{}#a/b:1", fake.address), config);
    assert_eq!(
        one_line(&error.to_string()),
        "HOST does not speak TLS; plain http is not allowed for it"
    );
    assert!(
        fake.asked().iter().all(|asked| !asked.contains("/v2/")),
        "{:?}",
        fake.asked()
    );
}

#[test]
fn proxies() {
    // A CONNECT proxy that answers itself in the registry's place.
    let (proxy, image) = (Fake::start(), Image::new(&[b"layer"]));
    image.push(&proxy);
    proxy.fixed("registry.invalid:5000", Reply::ok(""));
    let with = |proxies| RegistryConfig {
        allow_http: AllowHttp::Hosts(vec!["registry.invalid".into()]),
        proxies,
        ..settings()
    };
    let address = format!("http://joe:hunter2@{}", proxy.address);
    let all = Proxies {
        all: Some(address.clone()),
        ..Proxies::default()
    };
    let reference: Reference = "registry.invalid:5000#a/b:1".parse().unwrap();
    pull(&reference, with(all.clone()), &NoCredentials).unwrap();
    let seen = proxy.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].path.as_str()),
        ("CONNECT", "registry.invalid:5000")
    );
    assert_eq!(seen[0].header("proxy-authorization"), Some("Basic am9lOmh1bnRlcjI="));
    assert!(
        seen[1..]
            .iter()
            .all(|seen| seen.header("proxy-authorization").is_none())
    );
    let exempt = Proxies {
        no_proxy: vec!["invalid".into()],
        ..all.clone()
    };
    let direct = error("registry.invalid:5000#a/b:1", with(exempt));
    assert!(
        direct.to_string().starts_with("no such host: registry.invalid ("),
        "{direct}"
    );
    proxy.fixed("registry.invalid:5000", Reply::status(403, ""));
    let refused = error("registry.invalid:5000#a/b:1", with(all));
    assert!(matches!(refused, Error::Host(_)), "{refused:?}");
    assert!(one_line(&refused.to_string()).starts_with("the proxy HOST does not connect to registry.invalid:5000: "));
    for (proxy, expected) in [
        (
            "socks5://u:hunter2@x:1",
            "the proxy x:1 is not supported: only http:// and https:// proxies are",
        ),
        ("http://", "the proxy  is not a URL such as http://HOST:PORT"),
        (
            "http://nohost.invalid:1",
            "no such host: nohost.invalid:1 (the proxy for registry.invalid:5000) (",
        ),
    ] {
        let proxies = Proxies {
            http: Some(proxy.into()),
            ..Proxies::default()
        };
        let error = error("registry.invalid:5000#a/b:1", with(proxies)).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
