//! Stable names of failures, for programs; the words after them are for people.
//!
//! They are a public promise: `openapi/hotbay.yaml` and `docs/api.md` list the
//! same, and a test compares them. Add one here when a client could want to
//! tell it apart.

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $text;)+

        /// Every code, with the sentence that explains it.
        pub const ALL: &[(&str, &str)] = &[$(($text, concat!($($doc),+))),+];
    };
}

codes! {
    /// The bytes are not an HTTP request.
    API_BAD_HTTP = "api.bad-http";
    /// The body is not JSON, lacks a field, has an unknown one or a value of the wrong type.
    API_BAD_BODY = "api.bad-body";
    /// The path has a parameter that the verb does not take, twice, or wrongly encoded.
    API_BAD_QUERY = "api.bad-query";
    /// Descriptors came along (SCM_RIGHTS) that the request does not take, or other than it says.
    API_BAD_DESCRIPTORS = "api.bad-descriptors";
    /// A field is set that Cloud Hypervisor knows and hotbay does not act on.
    API_NOT_OFFERED = "api.not-offered";
    /// There is no such path.
    API_NO_SUCH_PATH = "api.no-such-path";
    /// The path exists, but not for this method.
    API_WRONG_METHOD = "api.wrong-method";
    /// The request is longer than any valid one.
    API_TOO_LARGE = "api.too-large";
    /// Cloud Hypervisor has this verb, hotbay does not.
    API_NOT_IMPLEMENTED = "api.not-implemented";
    /// Too many clients or too many requests at once.
    API_BUSY = "api.busy";
    /// The request was dropped because the machine is stopping.
    VMM_STOPPING = "vmm.stopping";
    /// The host refused something the machine needs.
    VMM_HOST_FAILED = "vmm.host-failed";
    /// Landlock was asked for, and the host has none, or one that is too old.
    VMM_NO_LANDLOCK = "vmm.no-landlock";
    /// Something lies outside of what Landlock lets this process reach.
    VMM_OUTSIDE_LANDLOCK = "vmm.outside-landlock";
    /// No VM has been created.
    VM_NOT_CREATED = "vm.not-created";
    /// There is a VM already.
    VM_EXISTS = "vm.exists";
    /// The VM is not running.
    VM_NOT_RUNNING = "vm.not-running";
    /// The VM is running already.
    VM_RUNNING = "vm.running";
    /// The VM is being built; it will run soon.
    VM_STARTING = "vm.starting";
    /// The VM is being paused; its vCPUs are on their way out of the guest.
    VM_PAUSING = "vm.pausing";
    /// The VM is paused.
    VM_PAUSED = "vm.paused";
    /// The VM is being rebooted; its devices are being reset.
    VM_REBOOTING = "vm.rebooting";
    /// The VM is being shut down; its devices are being closed.
    VM_STOPPING = "vm.stopping";
    /// The configuration is contradictory or out of range.
    VM_BAD_CONFIG = "vm.bad-config";
    /// The kernel, the initramfs or the command line cannot be loaded.
    VM_BAD_PAYLOAD = "vm.bad-payload";
    /// The machine could not be built or started.
    VM_BOOT_FAILED = "vm.boot-failed";
    /// There is no device with this id.
    DEVICE_NOT_FOUND = "device.not-found";
    /// The id is taken.
    DEVICE_ID_TAKEN = "device.id-taken";
    /// The id is empty, too long, or reserved for hotbay.
    DEVICE_BAD_ID = "device.bad-id";
    /// The path does not lead to a PCI device of the host.
    DEVICE_BAD_PATH = "device.bad-path";
    /// A field of the request is out of range for this device.
    DEVICE_BAD_REQUEST = "device.bad-request";
    /// The host device is in this VM already.
    DEVICE_IN_USE = "device.in-use";
    /// The device is not bound to vfio-pci.
    DEVICE_NOT_BOUND = "device.not-bound";
    /// Somebody else holds the device's IOMMU group.
    DEVICE_GROUP_BUSY = "device.group-busy";
    /// Other devices of the IOMMU group are bound to host drivers.
    DEVICE_GROUP_NOT_VIABLE = "device.group-not-viable";
    /// The host has no IOMMU for this device, or it is switched off.
    DEVICE_NO_IOMMU = "device.no-iommu";
    /// hotbay may not open the device or lock the memory.
    DEVICE_PERMISSION = "device.permission";
    /// No PCI slot, address range or interrupt is left, or the one asked for is taken.
    DEVICE_NO_ROOM = "device.no-room";
    /// The device does not do what its specification says.
    DEVICE_BROKEN = "device.broken";
    /// A removal has cancelled the add.
    DEVICE_CANCELLED = "device.cancelled";
    /// An add or a removal of this device is under way.
    DEVICE_BUSY = "device.busy";
    /// The guest did not let go of the device in time.
    DEVICE_REMOVE_TIMED_OUT = "device.remove-timed-out";
    /// The guest has not enabled this interrupt vector, or the host has refused it.
    DEVICE_VECTOR_OFF = "device.vector-off";
    /// The host failed while it handed the device over.
    DEVICE_HOST_FAILED = "device.host-failed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_is_listed_twice() {
        let mut names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();

        assert_eq!(names.len(), ALL.len());
    }
}
