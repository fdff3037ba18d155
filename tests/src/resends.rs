//! Device interrupts that a guest's kernel sends itself once more.
//!
//! Linux moves an MSI or MSI-X vector to another processor in two steps, and then looks in the local APIC it leaves
//! whether an interrupt came between them: if the new vector's number is pending there, it sends that number to the new
//! processor (`msi_set_affinity`, `lapic_vector_set_in_irr` in arch/x86/kernel/apic/msi.c). Another device's vector may
//! have the same number on the processor that is left, and then the guest counts an interrupt that nobody sent. If one did
//! come between the steps, what is sent again is all that is counted of it. So each of these adds one to the guest's count,
//! or nothing: a test that counts interrupts exactly has to know how many there were.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};

const TRACING: &str = "/sys/kernel/tracing";
/// Of the probe and of the buffer for what it sees: nobody else's events are in that.
const NAME: &str = "hotbay_resends";
/// KVM's way for every interrupt that one processor of a guest sends another; its second argument begins with the vector
/// (Intel SDM 3A, 12.6.1).
const PROBE: &str = "p:hotbay_resends/resend kvm_apic_send_ipi vector=%si:u8\n";
/// Numbers that Linux gives to devices: above the exceptions, below its own (arch/x86/include/asm/irq_vectors.h). The
/// others are its timer's and those by which processors call each other.
const OF_DEVICES: &str = "vector >= 32 && vector < 236";

/// Counts those of all guests of this host, until dropped.
#[derive(Debug)]
pub struct Resends {
    buffer: PathBuf,
}

impl Resends {
    /// Counts from now on.
    pub fn watch() -> Result<Self> {
        let watch = Self { buffer: Path::new(TRACING).join("instances").join(NAME) };
        append(&Path::new(TRACING).join("kprobe_events"), PROBE)?;
        fs::create_dir(&watch.buffer).doing("make a trace buffer")?;
        let event = watch.event();
        fs::write(event.join("filter"), OF_DEVICES).doing("choose vectors")?;
        fs::write(event.join("enable"), "1").doing("watch interrupts between processors")?;
        Ok(watch)
    }

    /// How many there were.
    pub fn so_far(&self) -> Result<u64> {
        let trace = fs::read_to_string(self.buffer.join("trace")).doing("read a trace buffer")?;
        Ok(trace.lines().filter(|line| line.contains(" resend: ")).count() as u64)
    }

    fn event(&self) -> PathBuf {
        self.buffer.join("events").join(NAME).join("resend")
    }
}

impl Drop for Resends {
    fn drop(&mut self) {
        let undone = fs::write(self.event().join("enable"), "0")
            .and_then(|()| fs::remove_dir(&self.buffer))
            .doing("take a trace buffer down")
            .and_then(|()| {
                append(&Path::new(TRACING).join("kprobe_events"), &format!("-:{NAME}/\n"))
            });
        if let Err(error) = undone {
            eprintln!("a probe stays behind: {error}");
        }
    }
}

fn append(file: &Path, text: &str) -> Result {
    let opened = fs::OpenOptions::new().append(true).open(file);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.doing(format!("write {text:?} to {}", file.display()))
}
