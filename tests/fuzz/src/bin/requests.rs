//! JSON bodies and paths: what a client may say once its HTTP is right.
//!
//! Input: one byte for the verb, one that says whether a query follows (up to the first zero byte),
//! then the body. Held to: what is understood survives being written and read again, and its check
//! ends in a value or a sentence; what is not is refused with a status and a code that are documented.

#![no_main]

use api::request::{Fault, Request, Status, code};
use api::route::{self, PREFIX, ROUTES};
use fuzz::draw::Draw;
use libfuzzer_sys::fuzz_target;
use vmm::config::VmSpec;
use vmm::config::device::DeviceSpec;
use vmm::config::disk::DiskSpec;
use vmm::config::net::NetSpec;
use vmm::config::user_device::UserDeviceSpec;
use vmm::config::vsock::VsockSpec;

fuzz_target!(|input: &[u8]| {
    let mut draw = Draw::new(input);
    let route = &ROUTES[usize::from(draw.byte()) % ROUTES.len()];
    let with_query = draw.flag();
    let rest = draw.rest();
    let end = rest.iter().position(|byte| *byte == 0).filter(|_| with_query);
    let (query, body) = end.map_or((&[][..], rest), |end| (&rest[..end], &rest[end + 1..]));
    let Ok(query) = std::str::from_utf8(query) else { return };
    let mark = if query.is_empty() { "" } else { "?" };
    let path = format!("{PREFIX}{}{mark}{query}", route.verb);
    match route::parse(route.method, &path, body) {
        Ok(request) => understood(&request),
        Err(fault) => assert_documented(&fault),
    }
});

fn understood(request: &Request) {
    let wire = route::write(request).expect("what came as JSON can be JSON");
    let body = wire.body.as_deref().unwrap_or_default();
    let again = route::parse(wire.method, &wire.path, body.as_bytes());
    assert_eq!(again.as_ref(), Ok(request), "{wire:?}");
    match request {
        Request::Create(config) => {
            if let Err(error) = VmSpec::try_from((**config).clone()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Request::AddDevice(device) => {
            if let Err(error) = DeviceSpec::try_from(device.clone()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Request::AddDisk(disk) => {
            if let Err(error) = DiskSpec::try_from(disk.clone()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Request::AddNet(net) => {
            if let Err(error) = NetSpec::try_from(net.clone()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Request::AddVsock(vsock) => {
            if let Err(error) = VsockSpec::try_from(vsock.clone()) {
                assert!(!error.to_string().is_empty());
            }
        }
        Request::AddUserDevice(device) => {
            if let Err(error) = UserDeviceSpec::try_from(device.clone()) {
                assert!(!error.to_string().is_empty());
            }
        }
        _ => {}
    }
}

fn assert_documented(fault: &Fault) {
    assert_eq!(fault.status, Status::BadRequest, "{fault}");
    assert!(code::ALL.iter().any(|(known, _)| *known == fault.code), "{fault}");
    assert!(fault.chain.iter().all(|link| !link.is_empty()), "{fault}");
}
