//! A registry that lies: every document and blob that is not what it should be, and what is said then.
#![forbid(unsafe_code)]

use super::fake::{End, Fake, Reply};
use super::image::{Image, host, index, one_line, pull, reference, refusal};
use super::settings;
use pyxis_runtime::image::{BlobReader, Client, NoCredentials};
use pyxis_runtime::reference::Reference;
use pyxis_runtime::{Digest, Error};
use std::io::Read;

fn pushed(layers: &[&[u8]]) -> (Fake, Image) {
    let (fake, image) = (Fake::start(), Image::new(layers));
    image.push(&fake);
    (fake, image)
}

#[test]
fn manifest_that_does_not_match_what_the_registry_says() {
    let (fake, image) = pushed(&[b"layer"]);
    let said = Digest::of(b"something else");
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::ok(image.manifest.clone()).header("docker-content-digest", said.to_string()),
    );
    assert_eq!(
        refusal(&fake),
        format!(
            "the manifest of a/b:1 from HOST does not match its digest: the registry says {said}, got {}",
            image.digest()
        )
    );
}

#[test]
fn manifest_that_does_not_match_the_digest_that_was_asked_for() {
    let (fake, image) = pushed(&[b"layer"]);
    let wanted = Digest::of(b"something else");
    // The registry even says that it is the wanted one.
    let reply = Reply::ok(image.manifest.clone()).header("docker-content-digest", wanted.to_string());
    fake.fixed(&format!("/v2/a/b/manifests/{wanted}"), reply);
    let reference: Reference = format!("{}/a/b@{wanted}", fake.address).parse().unwrap();
    let error = pull(&reference, settings(), &NoCredentials).unwrap_err();
    assert!(matches!(error, Error::Image(_)));
    assert_eq!(
        one_line(&error.to_string()),
        format!(
            "the manifest of a/b@{wanted} from HOST does not match its digest: asked for {wanted}, got {}",
            image.digest()
        )
    );
}

#[test]
fn manifest_that_does_not_match_its_index() {
    let (fake, image) = pushed(&[b"layer"]);
    let other = Image::new(&[b"other"]);
    let wanted = image.digest();
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::ok(index(&[(&host().to_string(), &image)])),
    );
    fake.fixed(
        &format!("/v2/a/b/manifests/{wanted}"),
        Reply::ok(other.manifest.clone()),
    );
    assert_eq!(
        refusal(&fake),
        format!(
            "the manifest of a/b:1 from HOST does not match its digest: asked for {wanted}, got {}",
            other.digest()
        )
    );
    let short =
        index(&[(&host().to_string(), &image)]).replace(&format!("\"size\":{}", image.manifest.len()), "\"size\":1");
    fake.fixed("/v2/a/b/manifests/1", Reply::ok(short));
    image.push_manifest(&fake, &wanted.to_string());
    assert_eq!(
        refusal(&fake),
        format!(
            "the manifest of a/b:1 from HOST has {} bytes, its index says 1",
            image.manifest.len()
        )
    );
}

#[test]
fn configuration_that_does_not_match() {
    let (fake, image) = pushed(&[b"layer"]);
    let other = image.config.replace("/w", "/x");
    fake.fixed(&image.config_page(), Reply::ok(other.clone()));
    assert_eq!(
        refusal(&fake),
        format!(
            "configuration {} does not match its digest: got {}",
            Digest::of(image.config.as_bytes()),
            Digest::of(other.as_bytes())
        )
    );
}

#[test]
fn layer_that_does_not_match() {
    let (fake, image) = pushed(&[b"layer"]);
    fake.fixed(&image.layer_page(0), Reply::ok("LAYER"));
    assert_eq!(
        refusal(&fake),
        format!(
            "layer {} does not match its digest: got {}",
            Digest::of(b"layer"),
            Digest::of(b"LAYER")
        )
    );
}

#[test]
fn a_wrong_layer_never_reaches_its_last_byte() {
    let (fake, image) = pushed(&[b"0123456789"]);
    fake.fixed(&image.layer_page(0), Reply::ok("012345678X"));
    let (client, reference) = (Client::new(settings()), reference(&fake));
    let repository = client.repository(&reference, &NoCredentials);
    let resolved = repository.resolve(&host()).unwrap();
    let mut reader = repository.open_layer(&resolved.layers[0]).unwrap();
    let error = reader.read_exact(&mut [0; 10]).unwrap_err();
    assert!(
        BlobReader::error(error)
            .to_string()
            .contains("does not match its digest")
    );
    // It stays failed.
    let error = reader.read(&mut [0; 10]).unwrap_err();
    assert!(
        BlobReader::error(error)
            .to_string()
            .contains("does not match its digest")
    );
}

#[test]
fn layer_larger_than_its_descriptor() {
    let larger = format!(
        "layer {} is larger than its descriptor says (5 bytes)",
        Digest::of(b"layer")
    );
    for end in [End::Whole, End::Chunked] {
        let (fake, image) = pushed(&[b"layer"]);
        fake.fixed(&image.layer_page(0), Reply::ok("layer and more").end(end));
        assert_eq!(refusal(&fake), larger, "{end:?}");
    }
}

#[test]
fn truncated_layer() {
    let start = format!(
        "layer {} is truncated: its descriptor says 5 bytes",
        Digest::of(b"layer")
    );
    for (end, rest) in [(End::Whole, ": the registry has 3"), (End::Chunked, ", 3 came")] {
        let (fake, image) = pushed(&[b"layer"]);
        fake.fixed(&image.layer_page(0), Reply::ok("lay").end(end));
        assert_eq!(refusal(&fake), format!("{start}{rest}"), "{end:?}");
    }
    let (fake, image) = pushed(&[b"layer"]);
    fake.fixed(&image.layer_page(0), Reply::ok("").end(End::Chunked));
    assert_eq!(refusal(&fake), format!("{start}, 0 came"));
}

#[test]
fn empty_layer_with_bytes() {
    let (fake, image) = pushed(&[b""]);
    fake.fixed(&image.layer_page(0), Reply::ok("x").end(End::Chunked));
    assert_eq!(
        refusal(&fake),
        format!("layer {} is larger than its descriptor says (0 bytes)", Digest::of(b""))
    );
}

#[test]
fn resumed_layer_that_is_cut_short_or_changes_places() {
    let (fake, image) = pushed(&[b"0123456789"]);
    fake.page(&image.layer_page(0), |seen| match seen.header("range") {
        None => Reply::ok("0123456789").end(End::Cut(4)),
        Some(_) => Reply::status(416, ""),
    });
    let digest = Digest::of(b"0123456789");
    assert_eq!(
        refusal(&fake),
        format!("layer {digest} is truncated: its descriptor says 10 bytes, 4 came")
    );
    fake.page(&image.layer_page(0), |seen| match seen.header("range") {
        None => Reply::ok("0123456789").end(End::Cut(4)),
        Some(_) => Reply::status(206, "56789").header("content-range", "bytes 5-9/10"),
    });
    assert_eq!(
        refusal(&fake),
        format!("HOST answers 206 when asked for layer {digest} of a/b:1")
    );
    fake.page(&image.layer_page(0), |seen| match seen.header("range") {
        None => Reply::ok("0123456789").end(End::Cut(4)),
        Some(_) => Reply::status(206, "XXXXXX").header("content-range", "bytes 4-9/10"),
    });
    assert_eq!(
        refusal(&fake),
        format!(
            "layer {digest} does not match its digest: got {}",
            Digest::of(b"0123XXXXXX")
        )
    );
}

#[test]
fn missing_blobs() {
    let (fake, image) = pushed(&[b"layer"]);
    fake.fixed(&image.layer_page(0), Reply::error(404, "BLOB_UNKNOWN", "blob unknown"));
    assert_eq!(
        refusal(&fake),
        format!("registry HOST does not have layer {} of a/b:1", Digest::of(b"layer"))
    );
    fake.fixed(&image.config_page(), Reply::error(404, "BLOB_UNKNOWN", "blob unknown"));
    let digest = Digest::of(image.config.as_bytes());
    assert_eq!(
        refusal(&fake),
        format!("registry HOST does not have configuration {digest} of a/b:1")
    );
}

#[test]
fn garbage_instead_of_a_manifest() {
    let (fake, _) = pushed(&[b"layer"]);
    for (reply, expected) in [
        (
            Reply::ok("<html>sign in</html>"),
            "the manifest of a/b:1 cannot be read: expected value at line 1 column 1",
        ),
        (Reply::ok("{}"), "a/b:1 is not a container image (no media type)"),
        (
            Reply::ok(vec![b' '; (4 << 20) + 1]),
            "the manifest of a/b:1 from HOST is larger than 4194304 bytes",
        ),
        (
            Reply::ok(r#"{"schemaVersion":1,"fsLayers":[],"signatures":[]}"#),
            "a/b:1 has an old schema 1 manifest, which is not supported: push the image again with a current docker",
        ),
        (
            Reply::status(418, "\x1b[31mteapot\n"),
            "HOST answers 418 when asked for the manifest of a/b:1",
        ),
        (
            Reply::error(400, "NAME_INVALID", "bad\\u001b[31m\\nname"),
            "HOST answers 400 when asked for the manifest of a/b:1: NAME_INVALID bad [31m name",
        ),
    ] {
        // Found out with a good answer that the registry speaks http, so that 400 is about the request.
        let first = std::cell::Cell::new(true);
        let good = Image::new(&[b"layer"]);
        let bad = reply.clone();
        fake.page("/v2/a/b/manifests/1", move |_| {
            if first.take() {
                Reply::ok(good.manifest.clone())
            } else {
                bad.clone()
            }
        });
        let (client, reference) = (Client::new(settings()), reference(&fake));
        client
            .repository(&reference, &NoCredentials)
            .resolve_manifest(&host())
            .unwrap();
        let error = client
            .repository(&reference, &NoCredentials)
            .resolve_manifest(&host())
            .unwrap_err();
        assert_eq!(one_line(&error.to_string()), expected);
    }
}

#[test]
fn an_index_of_indexes_without_end() {
    let fake = Fake::start();
    // Each says that the next one is an index again; sizes and digests are right.
    let mut document = index(&[]);
    for name in ["3", "2", "1", "0"] {
        let digest = Digest::of(document.as_bytes());
        fake.fixed(&format!("/v2/a/b/manifests/{digest}"), Reply::ok(document.clone()));
        let entry = format!(
            r#"{{"mediaType":"x{name}","digest":"{digest}","size":{}}}"#,
            document.len()
        );
        document = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    }
    fake.fixed("/v2/a/b/manifests/1", Reply::ok(document));
    assert_eq!(refusal(&fake), "a/b:1 is an index of indexes, more than 2 deep");
}

#[test]
fn another_machine() {
    let (fake, image) = pushed(&[b"layer"]);
    fake.fixed(
        "/v2/a/b/manifests/1",
        Reply::ok(index(&[("linux/mips64le", &image), ("linux/s390x", &image)])),
    );
    let error = pull(&reference(&fake), settings(), &NoCredentials).unwrap_err();
    let here = host();
    assert_eq!(
        error,
        Error::Request(format!(
            "a/b:1 has no {here} variant, only: linux/mips64le, linux/s390x"
        ))
    );
    Image::with_config(&[b"layer"], "mips64le").push(&fake);
    let error = pull(&reference(&fake), settings(), &NoCredentials).unwrap_err();
    assert_eq!(
        error,
        Error::Request(format!("a/b:1 is for linux/mips64le, not for {here}"))
    );
}

#[test]
fn configuration_with_another_number_of_layers() {
    let (fake, image) = pushed(&[b"one", b"two"]);
    let config = image.config.replace(&format!("\"{}\",", Digest::of(b"one")), "");
    let manifest = image
        .manifest
        .replace(
            &Digest::of(image.config.as_bytes()).to_string(),
            &Digest::of(config.as_bytes()).to_string(),
        )
        .replace(
            &format!("\"size\":{}", image.config.len()),
            &format!("\"size\":{}", config.len()),
        );
    fake.fixed(&Image::blob(Digest::of(config.as_bytes())), Reply::ok(config));
    fake.fixed("/v2/a/b/manifests/1", Reply::ok(manifest));
    assert_eq!(
        refusal(&fake),
        "the configuration of a/b:1 lists 1 layers, its manifest 2"
    );
}

#[test]
fn huge_configuration() {
    let (fake, image) = pushed(&[b"layer"]);
    let manifest = image
        .manifest
        .replace(&format!("\"size\":{}", image.config.len()), "\"size\":8388609");
    fake.fixed("/v2/a/b/manifests/1", Reply::ok(manifest));
    assert_eq!(
        refusal(&fake),
        "the configuration of a/b:1 is 8388609 bytes; at most 8388608 are supported"
    );
}
