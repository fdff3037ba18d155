//! Request numbers of ioctls that some thread may use, with their names. The
//! kernel's headers encode direction, size and number; so does this table.

use kvm_bindings as kvm;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

/// "type" of requests to KVM, vhost and VFIO.
const KVM: u32 = 0xae;
const VHOST: u32 = 0xaf;
const VFIO: u32 = b';' as u32;
const VFIO_BASE: u32 = 100;

macro_rules! requests {
    ($($name:ident = $number:expr;)*) => {
        $(pub(super) const $name: u64 = $number;)*

        /// All of them.
        const NAMES: &[(u64, &str)] = &[$(($name, stringify!($name)),)*];
    };
}

/// What a request is called; `None` for one that no list mentions.
pub(super) fn name(request: u64) -> Option<&'static str> {
    let request = request & u64::from(u32::MAX);
    NAMES.iter().find(|(number, _)| *number == request).map(|(_, name)| *name)
}

const fn plain(number: u32) -> u64 {
    ioctl_expr(_IOC_NONE, KVM, number, 0)
}

const fn gets<T>(number: u32) -> u64 {
    ioctl_expr(_IOC_READ, KVM, number, size::<T>())
}

const fn sets<T>(number: u32) -> u64 {
    ioctl_expr(_IOC_WRITE, KVM, number, size::<T>())
}

const fn both<T>(number: u32) -> u64 {
    ioctl_expr(_IOC_READ | _IOC_WRITE, KVM, number, size::<T>())
}

const fn vfio(number: u32) -> u64 {
    ioctl_expr(_IOC_NONE, VFIO, VFIO_BASE + number, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "no kernel structure is larger than 16 KiB")]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

requests! {
    KVM_GET_API_VERSION = plain(0x00);
    KVM_CREATE_VM = plain(0x01);
    KVM_GET_MSR_INDEX_LIST = both::<kvm::kvm_msr_list>(0x02);
    KVM_CHECK_EXTENSION = plain(0x03);
    KVM_GET_VCPU_MMAP_SIZE = plain(0x04);
    KVM_GET_SUPPORTED_CPUID = both::<kvm::kvm_cpuid2>(0x05);
    KVM_CREATE_VCPU = plain(0x41);
    KVM_SET_USER_MEMORY_REGION = sets::<kvm::kvm_userspace_memory_region>(0x46);
    KVM_SET_TSS_ADDR = plain(0x47);
    KVM_SET_IDENTITY_MAP_ADDR = sets::<u64>(0x48);
    KVM_CREATE_IRQCHIP = plain(0x60);
    KVM_IRQ_LINE = sets::<kvm::kvm_irq_level>(0x61);
    KVM_GET_IRQCHIP = both::<kvm::kvm_irqchip>(0x62);
    KVM_SET_IRQCHIP = gets::<kvm::kvm_irqchip>(0x63);
    KVM_SET_GSI_ROUTING = sets::<kvm::kvm_irq_routing>(0x6a);
    KVM_IRQFD = sets::<kvm::kvm_irqfd>(0x76);
    KVM_CREATE_PIT2 = sets::<kvm::kvm_pit_config>(0x77);
    KVM_IOEVENTFD = sets::<kvm::kvm_ioeventfd>(0x79);
    KVM_SET_CLOCK = sets::<kvm::kvm_clock_data>(0x7b);
    KVM_GET_CLOCK = gets::<kvm::kvm_clock_data>(0x7c);
    KVM_RUN = plain(0x80);
    KVM_GET_REGS = gets::<kvm::kvm_regs>(0x81);
    KVM_SET_REGS = sets::<kvm::kvm_regs>(0x82);
    KVM_GET_SREGS = gets::<kvm::kvm_sregs>(0x83);
    KVM_SET_SREGS = sets::<kvm::kvm_sregs>(0x84);
    KVM_GET_MSRS = both::<kvm::kvm_msrs>(0x88);
    KVM_SET_MSRS = sets::<kvm::kvm_msrs>(0x89);
    KVM_GET_FPU = gets::<kvm::kvm_fpu>(0x8c);
    KVM_SET_FPU = sets::<kvm::kvm_fpu>(0x8d);
    KVM_GET_LAPIC = gets::<kvm::kvm_lapic_state>(0x8e);
    KVM_SET_LAPIC = sets::<kvm::kvm_lapic_state>(0x8f);
    KVM_SET_CPUID2 = sets::<kvm::kvm_cpuid2>(0x90);
    KVM_GET_CPUID2 = both::<kvm::kvm_cpuid2>(0x91);
    KVM_GET_MP_STATE = gets::<kvm::kvm_mp_state>(0x98);
    KVM_SET_MP_STATE = sets::<kvm::kvm_mp_state>(0x99);
    KVM_NMI = plain(0x9a);
    KVM_GET_VCPU_EVENTS = gets::<kvm::kvm_vcpu_events>(0x9f);
    KVM_SET_VCPU_EVENTS = sets::<kvm::kvm_vcpu_events>(0xa0);
    KVM_GET_DEBUGREGS = gets::<kvm::kvm_debugregs>(0xa1);
    KVM_SET_DEBUGREGS = sets::<kvm::kvm_debugregs>(0xa2);
    KVM_SET_TSC_KHZ = plain(0xa2);
    KVM_GET_TSC_KHZ = plain(0xa3);
    KVM_ENABLE_CAP = sets::<kvm::kvm_enable_cap>(0xa3);
    KVM_GET_XSAVE = gets::<kvm::kvm_xsave>(0xa4);
    KVM_SET_XSAVE = sets::<kvm::kvm_xsave>(0xa5);
    KVM_SIGNAL_MSI = sets::<kvm::kvm_msi>(0xa5);
    KVM_GET_XCRS = gets::<kvm::kvm_xcrs>(0xa6);
    KVM_SET_XCRS = sets::<kvm::kvm_xcrs>(0xa7);
    KVM_KVMCLOCK_CTRL = plain(0xad);
    KVM_GET_NESTED_STATE = both::<kvm::kvm_nested_state>(0xbe);
    KVM_SET_NESTED_STATE = sets::<kvm::kvm_nested_state>(0xbf);
    KVM_CREATE_DEVICE = both::<kvm::kvm_create_device>(0xe0);
    KVM_SET_DEVICE_ATTR = sets::<kvm::kvm_device_attr>(0xe1);
    KVM_HAS_DEVICE_ATTR = sets::<kvm::kvm_device_attr>(0xe3);

    VFIO_GET_API_VERSION = vfio(0);
    VFIO_CHECK_EXTENSION = vfio(1);
    VFIO_SET_IOMMU = vfio(2);
    VFIO_GROUP_GET_STATUS = vfio(3);
    VFIO_GROUP_SET_CONTAINER = vfio(4);
    VFIO_GROUP_UNSET_CONTAINER = vfio(5);
    VFIO_GROUP_GET_DEVICE_FD = vfio(6);
    VFIO_DEVICE_GET_INFO = vfio(7);
    VFIO_DEVICE_GET_REGION_INFO = vfio(8);
    VFIO_DEVICE_GET_IRQ_INFO = vfio(9);
    VFIO_DEVICE_SET_IRQS = vfio(10);
    VFIO_DEVICE_RESET = vfio(11);
    // On a device, numbers 12 and 13 are the hot reset of its whole bus.
    VFIO_IOMMU_GET_INFO = vfio(12);
    VFIO_IOMMU_MAP_DMA = vfio(13);
    VFIO_IOMMU_UNMAP_DMA = vfio(14);
    VFIO_DEVICE_FEATURE = vfio(17);

    FIONBIO = libc::FIONBIO;
    FIOCLEX = libc::FIOCLEX;
    TCGETS = libc::TCGETS;
    TCSETS = libc::TCSETS;
    TCGETS2 = libc::TCGETS2;
    TCSETS2 = libc::TCSETS2;
    TIOCGWINSZ = libc::TIOCGWINSZ;
    TIOCGPTN = libc::TIOCGPTN;
    TIOCSPTLCK = libc::TIOCSPTLCK;
    // linux/if_tun.h.
    TUNGETIFF = ioctl_expr(_IOC_READ, b'T' as u32, 210, 4);
    TUNSETIFF = ioctl_expr(_IOC_WRITE, b'T' as u32, 202, 4);
    TUNSETOFFLOAD = ioctl_expr(_IOC_WRITE, b'T' as u32, 208, 4);
    TUNSETVNETHDRSZ = ioctl_expr(_IOC_WRITE, b'T' as u32, 216, 4);
    TUNSETQUEUE = ioctl_expr(_IOC_WRITE, b'T' as u32, 217, 4);
    // linux/vhost.h.
    VHOST_GET_FEATURES = ioctl_expr(_IOC_READ, VHOST, 0x00, 8);
    VHOST_SET_FEATURES = ioctl_expr(_IOC_WRITE, VHOST, 0x00, 8);
    VHOST_SET_OWNER = ioctl_expr(_IOC_NONE, VHOST, 0x01, 0);
    VHOST_SET_MEM_TABLE = ioctl_expr(_IOC_WRITE, VHOST, 0x03, 8);
    VHOST_SET_VRING_NUM = ioctl_expr(_IOC_WRITE, VHOST, 0x10, 8);
    VHOST_SET_VRING_ADDR = ioctl_expr(_IOC_WRITE, VHOST, 0x11, 40);
    VHOST_SET_VRING_BASE = ioctl_expr(_IOC_WRITE, VHOST, 0x12, 8);
    VHOST_SET_VRING_KICK = ioctl_expr(_IOC_WRITE, VHOST, 0x20, 8);
    VHOST_SET_VRING_CALL = ioctl_expr(_IOC_WRITE, VHOST, 0x21, 8);
    VHOST_SET_VRING_ERR = ioctl_expr(_IOC_WRITE, VHOST, 0x22, 8);
    VHOST_NET_SET_BACKEND = ioctl_expr(_IOC_WRITE, VHOST, 0x30, 8);
    VHOST_VSOCK_SET_GUEST_CID = ioctl_expr(_IOC_WRITE, VHOST, 0x60, 8);
    VHOST_VSOCK_SET_RUNNING = ioctl_expr(_IOC_WRITE, VHOST, 0x61, 4);
}
