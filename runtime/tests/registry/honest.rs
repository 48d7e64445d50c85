//! A registry that behaves: what is asked of it, and how often.
#![forbid(unsafe_code)]

use super::fake::{End, Fake, Reply};
use super::image::{Image, OCI_INDEX, host, index, pull, reference};
use super::settings;
use pyxis_runtime::image::{Client, NoCredentials};
use pyxis_runtime::reference::Reference;
use std::io::Read;

#[test]
fn an_image_is_fetched() {
    let (fake, image) = (Fake::start(), Image::new(&[b"layer one", b"", b"layer two"]));
    image.push(&fake);
    let (resolved, layers) = pull(&reference(&fake), settings(), &NoCredentials).unwrap();
    assert_eq!(layers, image.layers);
    assert_eq!(resolved.manifest_digest, image.digest());
    assert_eq!(resolved.config.env, ["A=b"]);
    assert_eq!(resolved.config.working_dir, "/w");
    assert_eq!(resolved.config_bytes, image.config.as_bytes());
}

#[test]
fn everything_goes_over_one_connection() {
    let (fake, image) = (Fake::start(), Image::new(&[b"layer one", b"layer two"]));
    image.push(&fake);
    pull(&reference(&fake), settings(), &NoCredentials).unwrap();
    let seen = fake.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|seen| seen.connection == 1), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none()));
    assert!(
        seen[0]
            .header("accept")
            .unwrap()
            .contains("application/vnd.docker.distribution.manifest.list.v2+json")
    );
    assert!(seen[0].header("user-agent").unwrap().starts_with("pyxis/"));
}

#[test]
fn a_warm_start_asks_for_the_manifest_and_nothing_else() {
    let (fake, image) = (Fake::start(), Image::new(&[b"layer"]));
    image.push(&fake);
    let (client, reference) = (Client::new(settings()), reference(&fake));
    let repository = client.repository(&reference, &NoCredentials);
    let manifest = repository.resolve_manifest(&host()).unwrap();
    let resolved = manifest
        .resolve(image.config.clone().into_bytes(), "a/b:1", &host())
        .unwrap();
    assert_eq!(resolved.layers.len(), 1);
    assert_eq!(fake.asked(), ["GET /v2/a/b/manifests/1"]);
}

#[test]
fn the_digest_alone() {
    let (fake, image) = (Fake::start(), Image::new(&[b"layer"]));
    image.push(&fake);
    let (client, reference) = (Client::new(settings()), reference(&fake));
    let repository = client.repository(&reference, &NoCredentials);
    assert_eq!(repository.current_digest().unwrap(), Some(image.digest()));
    assert_eq!(fake.asked(), ["HEAD /v2/a/b/manifests/1"]);
    fake.fixed("/v2/a/b/manifests/1", Reply::ok("x"));
    assert_eq!(repository.current_digest().unwrap(), None);
    fake.fixed("/v2/a/b/manifests/1", Reply::status(404, ""));
    fake.fixed("/v2/a/b/tags/list", Reply::ok(r#"{"tags":["2"]}"#));
    let error = repository.current_digest().unwrap_err().to_string();
    assert!(error.ends_with("has no tag 1, only: 2"), "{error}");
}

#[test]
fn an_index_costs_one_request_more() {
    let (fake, image, other) = (Fake::start(), Image::new(&[b"layer"]), Image::new(&[b"other"]));
    image.push(&fake);
    let entries = index(&[
        ("linux/mips64le", &other),
        ("unknown/unknown", &other),
        (&host().to_string(), &image),
    ]);
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::ok(entries).header("content-type", OCI_INDEX),
    );
    let (client, reference) = (Client::new(settings()), reference(&fake));
    let manifest = client
        .repository(&reference, &NoCredentials)
        .resolve_manifest(&host())
        .unwrap();
    assert_eq!(manifest.digest, image.digest());
    assert_eq!(
        fake.asked(),
        [
            "GET /v2/a/b/manifests/1".into(),
            format!("GET /v2/a/b/manifests/{}", image.digest())
        ]
    );
}

#[test]
fn a_digest_is_asked_for_instead_of_the_tag() {
    let (fake, image) = (Fake::start(), Image::new(&[b"layer"]));
    image.push(&fake);
    let reference: Reference = format!("{}/a/b:nonsense@{}", fake.address, image.digest())
        .parse()
        .unwrap();
    pull(&reference, settings(), &NoCredentials).unwrap();
    assert_eq!(fake.asked()[0], format!("GET /v2/a/b/manifests/{}", image.digest()));
}

#[test]
fn layers_may_come_in_chunks_and_in_parallel() {
    let big: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (fake, image) = (Fake::start(), Image::new(&[&big, b"one", b"two", b"three"]));
    image.push(&fake);
    fake.fixed(&image.layer_page(0), Reply::ok(big).end(End::Chunked));
    let (client, reference) = (Client::new(settings()), reference(&fake));
    let repository = client.repository(&reference, &NoCredentials);
    let resolved = repository.resolve(&host()).unwrap();
    let layers: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let read = |layer| {
            let mut bytes = Vec::new();
            repository.open_layer(layer).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let threads: Vec<_> = resolved
            .layers
            .iter()
            .map(|layer| scope.spawn(move || read(layer)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(layers, image.layers);
}

#[test]
fn the_reader_knows_where_it_is() {
    let (fake, image) = (Fake::start(), Image::new(&[b"0123456789"]));
    image.push(&fake);
    let (client, reference) = (Client::new(settings()), reference(&fake));
    let repository = client.repository(&reference, &NoCredentials);
    let resolved = repository.resolve(&host()).unwrap();
    let mut reader = repository.open_layer(&resolved.layers[0]).unwrap();
    assert_eq!((reader.position(), reader.size()), (0, 10));
    reader.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(reader.position(), 4);
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!((reader.position(), reader.read(&mut [0; 4]).unwrap()), (10, 0));
}
