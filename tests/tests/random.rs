//! Random numbers of the host's, read by a guest's driver.

use tests::error::ensure;
use tests::{Options, in_lab};

#[test]
fn guest_reads_random_numbers_from_its_device() {
    in_lab(|_| {
        let arguments = ["--rng", "src=/dev/urandom,id=rng"].map(str::to_owned).to_vec();
        let mut vm = Options { arguments, ..Options::default() }.boot()?;
        vm.guest.wait_for("the device", "test -c /dev/hwrng")?;

        let read = "dd if=/dev/hwrng bs=64 count=64 2>/dev/null | sha256sum";
        let (first, second) = (vm.guest.run(read)?, vm.guest.run(read)?);

        ensure(first != second, || format!("{first} twice"))?;
        let counters = vm.counters()?;
        ensure(counters["rng"]["read_bytes"].as_u64() >= Some(4096), || counters.to_string())
    });
}
