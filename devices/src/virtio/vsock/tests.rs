use crate::virtio::testing::memory;

use super::*;

fn because(errno: i32) -> VsockError {
    VsockError::open(io::Error::from_raw_os_error(errno))
}

#[test]
fn host_without_vsock_and_user_without_rights_are_told_what_to_do() {
    for errno in [libc::ENOENT, libc::ENODEV, libc::ENXIO] {
        assert!(because(errno).to_string().contains("modprobe vhost_vsock"), "{errno}");
    }
    assert!(because(libc::EACCES).to_string().contains("group"));
    assert!(matches!(because(libc::EMFILE), VsockError::Open(_)));
}

#[test]
fn what_is_no_node_of_vhost_is_refused() {
    let refused = Vsock::with(tempfile::tempfile().unwrap(), 3, memory());

    assert!(matches!(refused, Err(VsockError::Refused(_))));
}

#[test]
fn addresses_of_guests_are_not_the_hosts_nor_everybodys() {
    assert!(!CIDS.contains(&2) && CIDS.contains(&3) && !CIDS.contains(&u32::MAX));
}
