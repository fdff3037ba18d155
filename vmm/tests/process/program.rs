//! hotbay as a process, and something for it to boot.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The program under test. Dropping it kills it.
pub struct Program {
    child: Child,
    pub socket: PathBuf,
}

impl Program {
    /// Starts it with a socket in `folder` that listens already, so that nobody has to
    /// wait for it.
    pub fn start(folder: &Path) -> Self {
        let socket = folder.join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_hotbay"))
            .args(["--api-socket", "fd=0"])
            .stdin(OwnedFd::from(listener))
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// It has been asked to end, and does so with success.
    pub fn has_ended_well(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a VM can run here; says in a line that `scripts/test` counts if not.
pub fn has_hypervisor() -> bool {
    let has = Path::new("/dev/kvm").exists();
    if !has {
        println!("SKIPPED: there is no /dev/kvm here");
    }
    has
}

/// An ELF file of one segment at 16 MiB, entered there through a PVH note: a guest that
/// halts.
pub fn kernel() -> (tempfile::TempDir, PathBuf) {
    const START: u64 = 16 << 20;
    const HALT: &[u8] = &[0xf4, 0xeb, 0xfd]; // hlt; jmp back to the hlt
    let mut image = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(24, &START.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    for (at, kind, offset, start, size) in
        [(64, 1_u32, 256_u64, START, 64_u64), (120, 4, 384, 0, 20)]
    {
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &start.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    }
    put(256, HALT);
    put(384, b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel");
    std::fs::write(&path, image).unwrap();
    (folder, path)
}
