//! What is no request of ours is refused, and not executed.

use api::request::{Request, Response};

use crate::scene::Scene;

#[test]
fn ten_mebibytes_are_refused_and_never_executed() {
    let scene = Scene::new();
    let mut client = scene.connect();
    let bait = "PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n";
    let body = bait.repeat((10 << 20) / bait.len());

    client.put("vm.create", &body);

    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 413 \r\n"), "{text}");
    assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
    assert!(text.ends_with(
        r#"["[api.too-large] the request is too large; a body may have 131072 bytes"]"#
    ));
    assert!(scene.receiver.next().is_none());
}

#[test]
fn endless_headers_are_refused() {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.send("GET /api/v1/vmm.ping HTTP/1.1\r\n");

    client.send(&"X-Padding: 0123456789\r\n".repeat(8_000));

    assert!(client.rest().starts_with("HTTP/1.1 413 \r\n"));
}

#[test]
fn garbage_is_refused_after_the_requests_before_it() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n\x16\x03\x01 what?\r\n\r\n");

    scene.answer(&Request::Boot, Response::Done);
    assert!(client.page().is(204));
    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 400 \r\n"), "{text}");
    assert!(text.contains("[api.bad-http]"), "{text}");
}

#[test]
fn chunked_body_is_refused_and_never_executed() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nPUT /api/v1/vm.boot HTTP/1.1\r\n\r\n");

    assert!(client.rest().contains("a chunked body is not supported"));
    assert!(scene.receiver.next().is_none());
}

#[test]
fn unknown_method_is_told_which_there_are() {
    for (path, right) in
        [("/api/v1/vmm.ping?x", "GET"), ("/api/v1/vm.boot", "PUT"), ("*", "GET, PUT")]
    {
        let scene = Scene::new();
        let mut client = scene.connect();

        client.send(&format!("BREW {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));

        let text = client.rest();
        assert!(text.starts_with("HTTP/1.1 405 \r\n"), "{text}");
        assert!(text.contains(&format!("\r\nAllow: {right}\r\n")), "{text}");
    }
}

#[test]
fn wrong_method_is_told_the_right_one_and_may_go_on() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("POST /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");

    let page = client.page();
    assert!(page.is(405), "{page:?}");
    assert!(page.head.contains("\r\nAllow: PUT\r\n"), "{page:?}");
    client.put("vm.boot", "");
    scene.answer(&Request::Boot, Response::Done);
    assert!(client.page().is(204));
}

#[test]
fn head_is_answered_without_a_body() {
    let scene = Scene::new();
    let mut client = scene.connect();

    client.send("HEAD /api/v1/vm.info HTTP/1.1\r\n\r\n");

    let text = client.rest();
    assert!(text.starts_with("HTTP/1.1 405 \r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n"), "{text}");
}
