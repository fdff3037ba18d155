//! The lists, as data. Add a call to the smallest list that needs it, and say
//! why if its name does not.

use libc::{
    CLONE_THREAD, F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL, F_OFD_SETLK,
    F_SETFD, F_SETFL, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, PR_GET_NAME, PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS, PROT_EXEC,
};

use super::Kind;
use super::found::{process, signal_stack};
use super::ioctls::*;

/// Over whatever is there, or at a place of the caller's choice.
const FIXED: u64 = constant(MAP_FIXED) | constant(MAP_FIXED_NOREPLACE);

/// A permitted system call.
pub(super) struct Call {
    /// Its number.
    pub(super) number: i64,
    /// Under which condition; several entries for a number are alternatives.
    pub(super) when: When,
}

/// Condition on the lower 32 bits of an argument (0 to 5).
pub(super) enum When {
    /// None.
    Always,
    /// It is one of these.
    OneOf { argument: u8, values: &'static [u64] },
    /// All of these arguments have bits like this.
    Masked(&'static [Bits]),
    /// It is what this process finds out when it starts.
    Found { argument: u8, value: fn() -> u64 },
}

/// Some bits of an argument, and what they must be.
pub(super) struct Bits {
    pub(super) argument: u8,
    pub(super) mask: u64,
    pub(super) value: u64,
}

const fn call(number: i64) -> Call {
    Call { number, when: When::Always }
}

const fn one_of(number: i64, argument: u8, values: &'static [u64]) -> Call {
    Call { number, when: When::OneOf { argument, values } }
}

const fn ioctls(requests: &'static [u64]) -> Call {
    one_of(libc::SYS_ioctl, 1, requests)
}

const fn masked(number: i64, bits: &'static [Bits]) -> Call {
    Call { number, when: When::Masked(bits) }
}

const fn found(number: i64, argument: u8, value: fn() -> u64) -> Call {
    Call { number, when: When::Found { argument, value } }
}

/// The bit is set.
const fn with(argument: u8, bit: u64) -> Bits {
    Bits { argument, mask: bit, value: bit }
}

/// The bit is clear.
const fn without(argument: u8, bit: u64) -> Bits {
    Bits { argument, mask: bit, value: 0 }
}

/// Constants that the C library declares as signed, but never are.
#[expect(clippy::cast_sign_loss, reason = "checked in the line before, at compile time")]
const fn constant(value: i32) -> u64 {
    assert!(value >= 0, "not a flag or command");
    value as u64
}

/// Lists of `kind`, most frequent requests first: conditions are tried in order.
pub(super) fn of(kind: Kind) -> Vec<&'static [Call]> {
    match kind {
        Kind::Http => vec![COMMON, OWNERSHIP, WAIT, CONNECTIONS],
        Kind::Vcpu => vec![RUN_GUEST, COMMON, DEVICE_ACCESS],
        Kind::Relay => vec![COMMON, OWNERSHIP, WAIT, ROUTES],
        Kind::Monitor => vec![COMMON, OWNERSHIP, WAIT],
        Kind::Disk => vec![STORAGE, COMMON],
        // Giving RAM back is the allocator's madvise.
        Kind::Rng | Kind::Balloon => vec![COMMON],
        Kind::Net => vec![PACKETS, COMMON],
        Kind::VhostNet => vec![VHOST_QUEUES, VHOST_CARDS, PACKETS, COMMON],
        // Where its output goes is open.
        Kind::Console => vec![TYPING, COMMON],
        Kind::Vsock => vec![VHOST_QUEUES, COMMON],
        Kind::Carrier => vec![MESSAGES, COMMON],
        // A superset of those, whose threads it starts.
        Kind::Worker => {
            vec![
                COMMON,
                OWNERSHIP,
                DEVICE_ACCESS,
                ROUTES,
                BUILD,
                STORAGE,
                PACKETS,
                VHOST_QUEUES,
                VHOST_CARDS,
                MESSAGES,
                THREADS,
            ]
        }
        // A superset of all that it starts.
        Kind::Main => {
            vec![
                RUN_GUEST,
                COMMON,
                OWNERSHIP,
                DEVICE_ACCESS,
                ROUTES,
                BUILD,
                STORAGE,
                PACKETS,
                VHOST_QUEUES,
                VHOST_CARDS,
                MESSAGES,
                THREADS,
                WAIT,
                CONNECTIONS,
                MACHINE,
            ]
        }
    }
}

/// What the language's runtime, the allocator, locks, logging, a panic and the
/// end of a thread need. Nothing here ends the life of a descriptor or mapping.
const COMMON: &[Call] = &[
    call(libc::SYS_read),
    call(libc::SYS_write),
    call(libc::SYS_writev),
    // An eventfd's count, without waiting.
    call(libc::SYS_preadv2),
    call(libc::SYS_futex),
    call(libc::SYS_brk),
    call(libc::SYS_madvise),
    // Memory of nobody's, nowhere in particular: the heap where `brk` cannot grow it.
    masked(
        libc::SYS_mmap,
        &[without(2, constant(PROT_EXEC)), with(3, constant(MAP_ANONYMOUS)), without(3, FIXED)],
    ),
    masked(libc::SYS_mprotect, &[without(2, constant(PROT_EXEC))]),
    // The end of a thread takes its signal stack away.
    found(libc::SYS_munmap, 1, signal_stack),
    call(libc::SYS_exit),
    call(libc::SYS_exit_group),
    call(libc::SYS_getpid),
    call(libc::SYS_gettid),
    call(libc::SYS_getrandom),
    // Where the host's clock has no fast path, each look at it is a call.
    call(libc::SYS_clock_gettime),
    call(libc::SYS_gettimeofday),
    call(libc::SYS_clock_nanosleep),
    call(libc::SYS_nanosleep),
    call(libc::SYS_sched_yield),
    call(libc::SYS_sched_getaffinity),
    call(libc::SYS_restart_syscall),
    call(libc::SYS_rt_sigreturn),
    call(libc::SYS_rt_sigprocmask),
    call(libc::SYS_sigaltstack),
    // Abort, and one thread kicking another: of this process, and no other.
    found(libc::SYS_tgkill, 0, process),
    // A new thread's first steps: they run under its parent's list, and under
    // its own if it applies that late.
    call(libc::SYS_rseq),
    call(libc::SYS_set_robust_list),
    one_of(libc::SYS_prctl, 0, &[constant(PR_GET_NAME), constant(PR_SET_NAME)]),
    // Putting the terminal back before dying.
    ioctls(&[TCSETS, TCSETS2]),
    // Debug builds look whether a descriptor is open before they close it.
    one_of(libc::SYS_fcntl, 1, &[constant(F_GETFD)]),
    // Refused with ENOSYS by the filter before; see `super::absent`.
    call(libc::SYS_clone3),
];

/// Giving back descriptors and mappings, and mapping descriptors. A vCPU must not:
/// what a device has lives until a worker drops the device, whatever its guest does.
const OWNERSHIP: &[Call] = &[
    call(libc::SYS_close),
    call(libc::SYS_munmap),
    call(libc::SYS_mremap),
    masked(libc::SYS_mmap, &[without(2, constant(PROT_EXEC))]),
];

/// Waiting for descriptors.
const WAIT: &[Call] = &[
    call(libc::SYS_epoll_wait),
    call(libc::SYS_epoll_pwait),
    call(libc::SYS_epoll_ctl),
    call(libc::SYS_poll),
    call(libc::SYS_ppoll),
    call(libc::SYS_timerfd_settime),
];

/// Serving a Unix socket that is bound already, and descriptors sent over it.
const CONNECTIONS: &[Call] = &[
    call(libc::SYS_accept4),
    call(libc::SYS_recvfrom),
    call(libc::SYS_recvmsg),
    call(libc::SYS_sendto),
    call(libc::SYS_sendmsg),
    call(libc::SYS_shutdown),
    call(libc::SYS_getsockopt),
    one_of(libc::SYS_fcntl, 1, &[constant(F_DUPFD_CLOEXEC)]),
];

const DESCRIPTOR_FLAGS: Call = one_of(
    libc::SYS_fcntl,
    1,
    &[
        constant(F_GETFD),
        constant(F_SETFD),
        constant(F_GETFL),
        constant(F_SETFL),
        constant(F_DUPFD_CLOEXEC),
        // A file that a vfio-user server has sent keeps its size.
        constant(F_GET_SEALS),
        constant(F_ADD_SEALS),
    ],
);

/// A vCPU between exits, and when it starts over after a reset.
const RUN_GUEST: &[Call] = &[ioctls(&[
    KVM_RUN,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_FPU,
    KVM_SET_FPU,
    KVM_GET_NESTED_STATE,
    KVM_SET_NESTED_STATE,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_XSAVE,
    KVM_SET_XSAVE,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_SET_CPUID2,
    KVM_NMI,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_KVMCLOCK_CTRL,
])];

/// What a guest's access to a function causes on the vCPU's own thread: configuration
/// space (a reset is a write there), interrupts, windows onto BARs, doorbells. Nothing is opened, closed, unmapped, or mapped for DMA here.
const DEVICE_ACCESS: &[Call] = &[
    call(libc::SYS_pread64),
    call(libc::SYS_pwrite64),
    call(libc::SYS_eventfd2),
    // A pending bit is whether an eventfd is readable.
    call(libc::SYS_poll),
    // A vector goes into the relay thread's hands.
    call(libc::SYS_epoll_ctl),
    call(libc::SYS_timerfd_settime),
    ioctls(&[KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_USER_MEMORY_REGION, VFIO_DEVICE_SET_IRQS]),
];

/// Delivering without a route, and the route table itself.
const ROUTES: &[Call] = &[ioctls(&[KVM_SIGNAL_MSI, KVM_IRQFD, KVM_SET_GSI_ROUTING])];

/// A disk's requests, on what is open.
const STORAGE: &[Call] = &[
    call(libc::SYS_preadv),
    call(libc::SYS_pwritev),
    // Zeros, where nothing better is offered.
    call(libc::SYS_pwrite64),
    call(libc::SYS_fdatasync),
    call(libc::SYS_fallocate),
];

/// A network card's packets, on the tap that is open, what its driver agreed to take, and how many
/// queues it uses.
const PACKETS: &[Call] =
    &[call(libc::SYS_readv), call(libc::SYS_poll), ioctls(&[TUNSETOFFLOAD, TUNSETQUEUE])];

/// Waiting for what is typed.
const TYPING: &[Call] = &[call(libc::SYS_poll)];

/// A queue that the host's kernel serves: where it is, and whether it is served.
const VHOST_QUEUES: &[Call] = &[
    call(libc::SYS_poll),
    ioctls(&[
        VHOST_SET_FEATURES,
        VHOST_SET_VRING_NUM,
        VHOST_SET_VRING_ADDR,
        VHOST_SET_VRING_BASE,
        VHOST_SET_VRING_KICK,
        VHOST_SET_VRING_CALL,
        VHOST_SET_VRING_ERR,
        VHOST_VSOCK_SET_RUNNING,
    ]),
];

/// The tap behind a queue that the host's kernel serves.
const VHOST_CARDS: &[Call] = &[ioctls(&[VHOST_NET_SET_BACKEND])];

/// Messages to a vfio-user server and from it, and files that it sends unasked.
const MESSAGES: &[Call] = &[
    call(libc::SYS_poll),
    call(libc::SYS_sendmsg),
    call(libc::SYS_recvmsg),
    call(libc::SYS_close),
];

/// Opening, inspecting and closing devices, and mapping RAM for them.
const BUILD: &[Call] = &[
    call(libc::SYS_openat),
    call(libc::SYS_fstat),
    call(libc::SYS_newfstatat),
    call(libc::SYS_statx),
    call(libc::SYS_lseek),
    call(libc::SYS_getdents64),
    call(libc::SYS_getcwd),
    call(libc::SYS_readlink),
    call(libc::SYS_readlinkat),
    call(libc::SYS_access),
    call(libc::SYS_faccessat2),
    // A disk's image is nobody else's.
    call(libc::SYS_flock),
    // Reading RLIMIT_MEMLOCK before RAM is pinned: no new limit is given.
    one_of(libc::SYS_prlimit64, 2, &[0]),
    DESCRIPTOR_FLAGS,
    // A connection to a vfio-user server, which waits for no longer than it says.
    one_of(libc::SYS_socket, 0, &[constant(libc::AF_UNIX)]),
    one_of(libc::SYS_setsockopt, 2, &[constant(libc::SO_SNDTIMEO)]),
    call(libc::SYS_connect),
    ioctls(&[
        FIONBIO,
        VFIO_GET_API_VERSION,
        VFIO_CHECK_EXTENSION,
        VFIO_SET_IOMMU,
        VFIO_GROUP_GET_STATUS,
        VFIO_GROUP_SET_CONTAINER,
        VFIO_GROUP_UNSET_CONTAINER,
        VFIO_GROUP_GET_DEVICE_FD,
        VFIO_DEVICE_GET_INFO,
        VFIO_DEVICE_GET_REGION_INFO,
        VFIO_DEVICE_GET_IRQ_INFO,
        VFIO_DEVICE_RESET,
        VFIO_IOMMU_GET_INFO,
        VFIO_IOMMU_MAP_DMA,
        VFIO_IOMMU_UNMAP_DMA,
        VFIO_DEVICE_FEATURE,
        KVM_CREATE_DEVICE,
        KVM_SET_DEVICE_ATTR,
        KVM_HAS_DEVICE_ATTR,
        TUNGETIFF,
        TUNSETIFF,
        TUNSETQUEUE,
        TUNSETVNETHDRSZ,
        VHOST_SET_OWNER,
        VHOST_GET_FEATURES,
        VHOST_SET_MEM_TABLE,
        VHOST_VSOCK_SET_GUEST_CID,
    ]),
];

/// Starting a thread (not a process) that restricts itself further.
const THREADS: &[Call] = &[
    masked(libc::SYS_clone, &[with(0, constant(CLONE_THREAD))]),
    one_of(libc::SYS_prctl, 0, &[constant(PR_SET_NO_NEW_PRIVS)]),
    call(libc::SYS_seccomp),
    call(libc::SYS_sched_setaffinity),
    // Making itself less important.
    one_of(libc::SYS_setpriority, 1, &[0]),
];

/// Creating and destroying machines, RAM and serial backends at run time.
const MACHINE: &[Call] = &[
    ioctls(&[
        KVM_GET_API_VERSION,
        KVM_CREATE_VM,
        KVM_GET_MSR_INDEX_LIST,
        KVM_CHECK_EXTENSION,
        KVM_GET_VCPU_MMAP_SIZE,
        KVM_GET_SUPPORTED_CPUID,
        KVM_CREATE_VCPU,
        KVM_SET_TSS_ADDR,
        KVM_SET_IDENTITY_MAP_ADDR,
        KVM_CREATE_IRQCHIP,
        KVM_GET_IRQCHIP,
        KVM_SET_IRQCHIP,
        KVM_CREATE_PIT2,
        KVM_GET_CPUID2,
        KVM_SET_CLOCK,
        KVM_GET_CLOCK,
        KVM_ENABLE_CAP,
        TCGETS,
        TCGETS2,
        TIOCGWINSZ,
        TIOCGPTN,
        TIOCSPTLCK,
        FIONBIO,
        FIOCLEX,
    ]),
    call(libc::SYS_epoll_create1),
    call(libc::SYS_timerfd_create),
    // Reaching fewer paths, at the first VM that asks for it: only ever less.
    call(libc::SYS_landlock_create_ruleset),
    call(libc::SYS_landlock_add_rule),
    call(libc::SYS_landlock_restrict_self),
    // A serial port's socket: made, replaced when stale, removed.
    call(libc::SYS_unlink),
    call(libc::SYS_memfd_create),
    call(libc::SYS_ftruncate),
    call(libc::SYS_fsync),
    one_of(libc::SYS_fcntl, 1, &[constant(F_ADD_SEALS), constant(F_OFD_SETLK)]),
    one_of(libc::SYS_socket, 0, &[constant(libc::AF_UNIX)]),
    one_of(libc::SYS_socketpair, 0, &[constant(libc::AF_UNIX)]),
    call(libc::SYS_bind),
    call(libc::SYS_listen),
    call(libc::SYS_connect),
    call(libc::SYS_pipe2),
    call(libc::SYS_rt_sigaction),
    call(libc::SYS_sysinfo),
    call(libc::SYS_uname),
    call(libc::SYS_getuid),
    call(libc::SYS_geteuid),
];
