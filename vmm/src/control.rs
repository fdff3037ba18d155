//! The one place where a request meets the machine.

use std::collections::BTreeMap;

use api::mailbox::Call;
use api::request::{Answer, Fault, Request, Response, Status, code};
use api::schema::info::{VmInfo, VmmPing};

use crate::lifecycle::{Ending, Error, Vmm};

/// Does what a client asked, and answers.
pub fn handle(vmm: &mut Vmm, call: Call) {
    let Call { request, reply } = call;
    reply.send(answer(vmm, request));
}

fn answer(vmm: &mut Vmm, request: Request) -> Answer {
    match request {
        Request::Ping => Ok(Response::Ping(ping())),
        Request::VmmShutdown => {
            vmm.end(Ending::Asked);
            Ok(Response::Done)
        }
        Request::Create(config) => done(vmm.create(*config), "cannot create the VM"),
        Request::Boot => done(vmm.boot(), "cannot boot the VM"),
        Request::Shutdown => done(vmm.shutdown(), "cannot shut the VM down"),
        Request::Reboot => done(vmm.reboot(), "cannot reboot the VM"),
        Request::Delete => done(vmm.delete(), "cannot delete the VM"),
        Request::Info => info(vmm).map_err(|error| error.fault("cannot show the VM")),
        Request::Counters => counters(vmm).map_err(|error| error.fault("cannot count")),
        Request::AddDevice(_) | Request::RemoveDevice(_) => Err(Fault::plain(
            Status::NotImplemented,
            code::API_NOT_IMPLEMENTED,
            "hot-plug is not built yet",
        )),
    }
}

fn done(result: Result<(), Error>, asked: &str) -> Answer {
    result.map(|()| Response::Done).map_err(|error| error.fault(asked))
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
    let vm = vmm.vm.as_ref().ok_or(Error::NotCreated)?;
    Ok(Response::Info(Box::new(VmInfo {
        config: vm.config.clone(),
        state: vm.stage.state(),
        memory_actual_size: vm.spec.memory.size,
        device_tree: None,
    })))
}

fn counters(vmm: &Vmm) -> Result<Response, Error> {
    vmm.vm.as_ref().ok_or(Error::NotCreated)?;
    Ok(Response::Counters(BTreeMap::new()))
}
