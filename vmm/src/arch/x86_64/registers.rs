//! Registers of the first processor when it enters a kernel, and the tables in
//! guest memory that they point to.
//!
//! Sources: Linux `Documentation/arch/x86/boot.rst` ("64-bit Boot Protocol") and
//! the Xen PVH boot ABI (`xen/include/public/arch-x86/hvm/start_info.h`).

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::ram::Memory;

/// How a kernel wants to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit mode, identity-mapped, `boot_params` in RSI.
    Long {
        /// Address of the first instruction.
        start: u64,
        /// Address of the zero page.
        zero_page: u64,
    },
    /// 32-bit protected mode without paging, `hvm_start_info` in EBX.
    Pvh {
        /// Address of the first instruction.
        start: u64,
        /// Address of the start info.
        start_info: u64,
    },
}

/// Where the descriptor table is: null, unused, code (0x10), data (0x18), task.
const GDT: u64 = 0x500;
/// Where the page tables are: one page each for the three levels.
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const PD: u64 = 0xb000;
/// Top of the stack, which grows down from below the page tables.
const STACK: u64 = 0x8ff0;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Segment descriptors (Intel SDM volume 3, 3.4.5): flat, ring 0.
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const TASK: u64 = 0x0000_8b00_0000_0067;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS: u64 = 1 << 1;

/// Page table entry bits: present and writable, and a large page.
const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 1 << 7;
const LARGE_PAGE: u64 = 2 << 20;

impl Entry {
    /// General registers at the entry.
    pub fn regs(self) -> kvm_regs {
        let common = kvm_regs { rflags: RFLAGS, rsp: STACK, ..kvm_regs::default() };
        match self {
            Self::Long { start, zero_page } => {
                kvm_regs { rip: start, rsi: zero_page, rbp: STACK, ..common }
            }
            Self::Pvh { start, start_info } => kvm_regs { rip: start, rbx: start_info, ..common },
        }
    }

    /// Turns the system registers of a fresh processor into those at the entry.
    pub fn sregs(self, fresh: kvm_sregs) -> kvm_sregs {
        let mut sregs = fresh;
        let data = segment(DATA_SELECTOR, DATA);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.cs = segment(CODE_SELECTOR, self.code());
        sregs.tr = segment(TASK_SELECTOR, TASK);
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 5 * 8 - 1);
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
        sregs.cr0 = CR0_PE | CR0_ET;
        if let Self::Long { .. } = self {
            sregs.cr0 |= CR0_PG;
            sregs.cr3 = PML4;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        }
        sregs
    }

    /// Writes the descriptor table, and the page tables if paging is on: the
    /// first GiB, mapped where it is.
    pub fn write_tables(self, memory: &Memory) -> Result<(), GuestMemoryError> {
        let gdt = [0, 0, self.code(), DATA, TASK];
        write(memory, GDT, &gdt)?;
        if let Self::Long { .. } = self {
            write(memory, PML4, &[PDPT | PRESENT_WRITABLE])?;
            write(memory, PDPT, &[PD | PRESENT_WRITABLE])?;
            let large = |page| (page * LARGE_PAGE) | PRESENT_WRITABLE | LARGE;
            let pages: Vec<u64> = (0..512).map(large).collect();
            write(memory, PD, &pages)?;
        }
        Ok(())
    }

    fn code(self) -> u64 {
        match self {
            Self::Long { .. } => CODE64,
            Self::Pvh { .. } => CODE32,
        }
    }
}

fn write(memory: &Memory, address: u64, values: &[u64]) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(address))
}

/// The hidden part of a segment register, from its descriptor.
fn segment(selector: u16, descriptor: u64) -> kvm_segment {
    let bits = |from: u32, count: u32| u8::try_from(descriptor >> from & ((1 << count) - 1));
    let field = |from, count| bits(from, count).expect("no field is wider than four bits");
    let granular = field(55, 1);
    let limit = u32::try_from(descriptor & 0xffff | descriptor >> 32 & 0xf_0000);
    let limit = limit.expect("a limit has 20 bits");
    kvm_segment {
        base: 0,
        limit: if granular == 1 { limit << 12 | 0xfff } else { limit },
        selector,
        type_: field(40, 4),
        s: field(44, 1),
        dpl: field(45, 2),
        present: field(47, 1),
        avl: field(52, 1),
        l: field(53, 1),
        db: field(54, 1),
        g: granular,
        unusable: 0,
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat_and_of_the_right_mode() {
        let code = segment(CODE_SELECTOR, CODE64);
        assert_eq!((code.limit, code.l, code.db, code.type_), (u32::MAX, 1, 0, 0xb));

        let code = segment(CODE_SELECTOR, CODE32);
        assert_eq!((code.limit, code.l, code.db, code.s), (u32::MAX, 0, 1, 1));

        let task = segment(TASK_SELECTOR, TASK);
        assert_eq!((task.limit, task.type_, task.s, task.present), (0x67, 0xb, 0, 1));
    }

    #[test]
    fn pvh_entry_has_no_paging() {
        let entry = Entry::Pvh { start: 0x100_0000, start_info: 0x6000 };

        let sregs = entry.sregs(kvm_sregs::default());

        assert_eq!((sregs.cr0 & CR0_PG, sregs.cr4, sregs.efer), (0, 0, 0));
        assert_eq!(entry.regs().rbx, 0x6000);
    }
}
