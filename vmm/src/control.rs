//! The one place where a request meets the machine. Whether the VM allows it is one
//! table's to say ([`Verb`]), before anything else is looked at.

use api::mailbox::{Call, Reply};
use api::request::{Request, Response};
use api::schema::info::{VmInfo, VmmPing};
use api::schema::machine::VmConfig;

use devices::console::Console;

use crate::config::wanted::Wanted;
use crate::lifecycle::{Error, Refusal, Verb, Vmm};

/// Does what a client asked, and answers.
pub fn handle(vmm: &mut Vmm, call: Call) {
    let Call { request, reply } = call;
    let failed = Verb::of(&request).failed();
    if let Err(refusal) = vmm.allows(&request) {
        return reply.send(Err(refusal.fault(failed)));
    }
    match request {
        // These keep the reply until it is done.
        Request::Boot => vmm.boot(Some(reply)),
        Request::AddDevice(body) => vmm.add_device(body, reply),
        Request::AddDisk(body) => vmm.add_disk(body, reply),
        Request::AddNet(body) => vmm.add_net(body, reply),
        Request::AddVsock(body) => vmm.add_vsock(body, reply),
        Request::AddUserDevice(body) => vmm.add_user_device(body, reply),
        Request::Resize(body) => reply.send(vmm.resize(body)),
        Request::CheckDevice(body) => vmm.check_device(body, reply),
        Request::RemoveDevice(body) => vmm.remove_device(body, reply),
        Request::Reboot => vmm.reboot(Some(reply)),
        Request::Pause => vmm.pause(reply),
        Request::Shutdown => vmm.shutdown(reply),
        Request::Delete => vmm.delete(reply),
        Request::Interrupts(id) => vmm.show_interrupts(id, reply),
        Request::TestInterrupt(body) => vmm.test_interrupt(body, reply),
        Request::Events(what) => vmm.monitor.follow(what, reply),
        Request::VmmShutdown => vmm.end_for(reply),
        // These are done at once.
        Request::Ping => reply.send(Ok(Response::Ping(ping()))),
        Request::Create(config) => done(reply, vmm.create(*config), failed),
        Request::Resume => done(reply, vmm.resume(), failed),
        Request::Nmi => {
            vmm.interrupt();
            reply.send(Ok(Response::Done));
        }
        Request::PowerButton => {
            vmm.press_button();
            reply.send(Ok(Response::Done));
        }
        Request::Info => answer(reply, info(vmm), failed),
        Request::Counters => answer(reply, counters(vmm), failed),
    }
}

fn answer(reply: Reply, result: Result<Response, Error>, asked: &str) {
    reply.send(result.map_err(|error| error.fault(asked)));
}

fn done(reply: Reply, result: Result<(), Error>, asked: &str) {
    answer(reply, result.map(|()| Response::Done), asked);
}

fn ping() -> VmmPing {
    let version = env!("CARGO_PKG_VERSION");
    VmmPing {
        build_version: format!("v{version}"),
        version: version.to_owned(),
        pid: std::process::id().into(),
        features: vec!["kvm".to_owned()],
    }
}

fn info(vmm: &Vmm) -> Result<Response, Error> {
    let vm = vmm.vm.as_ref().ok_or(Refusal::NotCreated)?;
    let machine = vm.stage.machine();
    let specs = machine.map_or_else(|| vm.spec.devices.clone(), |machine| machine.bay.specs());
    let (mut disks, mut net, mut devices) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rng, mut vsock, mut balloon, mut served) = (None, None, None, Vec::new());
    for wanted in specs {
        match wanted {
            Wanted::Host(spec) => devices.push(spec.into()),
            Wanted::Disk(spec) => disks.push(spec.into()),
            Wanted::Net(spec) => net.push(spec.into()),
            Wanted::Rng(spec) => rng = Some(spec.into()),
            Wanted::Vsock(spec) => vsock = Some(spec.into()),
            Wanted::Served(spec) => served.push(spec.into()),
            Wanted::Balloon(spec) => balloon = Some(spec.into()),
            // Its configuration is not the device's.
            Wanted::Console(_) => {}
        }
    }
    let devices = Some(devices).filter(|devices| !devices.is_empty());
    let disks = Some(disks).filter(|disks| !disks.is_empty());
    let net = Some(net).filter(|net| !net.is_empty());
    let user_devices = Some(served).filter(|served| !served.is_empty());
    let mut config =
        VmConfig { disks, net, rng, vsock, balloon, devices, user_devices, ..vm.config.clone() };
    let serial = machine.and_then(|machine| machine.serial.as_ref()).map(|serial| &serial.console);
    let console = machine.and_then(|machine| machine.console.as_ref());
    for (port, shown) in [(serial, &mut config.serial), (console, &mut config.console)] {
        if let Some(pty) = port.and_then(Console::pty) {
            shown.file = Some(pty.to_owned());
        }
    }
    let ballooned = machine.map_or(0, |machine| machine.bay.ballooned());
    Ok(Response::Info(Box::new(VmInfo {
        config,
        state: vm.stage.state(),
        memory_actual_size: vm.spec.memory.size.saturating_sub(ballooned),
        memory_warm_size: machine.map(|machine| machine.warming.level().warm),
        device_tree: machine.map(|machine| machine.bay.tree()),
    })))
}

fn counters(vmm: &Vmm) -> Result<Response, Error> {
    let vm = vmm.vm.as_ref().ok_or(Refusal::NotCreated)?;
    let counters = vm.stage.machine().map(|machine| machine.bay.counters());
    Ok(Response::Counters(counters.unwrap_or_default()))
}
