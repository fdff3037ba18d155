//! All vectors of a function that has many of them: waiting until they are up, and firing each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use api::schema::interrupts::{Backend, DeviceInterrupts, VectorState};
use serde_json::json;

use crate::error::{Doing, Error, Result, ensure};
use crate::host::Bdf;
use crate::http::{Answer, receive};
use crate::vm::Vm;
use crate::wait::{Look, until};

/// A guest brings up a thousand vectors in ten seconds, alone on an emulated host.
const BRING_UP_LIMIT: Duration = Duration::from_secs(180);

/// From the last of a thousand events to the guest's counts.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);

/// A plugged function and its guest.
#[derive(Debug)]
pub struct Wide<'v> {
    /// The guest's VMM.
    pub vm: &'v mut Vm,
    id: &'static str,
    /// The function's address in the guest.
    pub bdf: String,
    /// Vectors that the guest's driver fires itself, now and then.
    restless: &'static [u16],
    /// Open for all requests, so that they need no new descriptor.
    connection: UnixStream,
}

impl<'v> Wide<'v> {
    /// Plugs a function in, with a connection for whatever is asked of it later.
    pub fn plug(vm: &'v mut Vm, function: &Bdf, id: &'static str) -> Result<Self> {
        let connection = vm.api.connect()?;
        let bdf = vm.add(function, id)?;
        Ok(Self { vm, id, bdf, restless: &[], connection })
    }

    /// The function `id`, at `bdf` in the guest.
    pub fn of(vm: &'v mut Vm, id: &'static str, bdf: &str) -> Result<Self> {
        let connection = vm.api.connect()?;
        Ok(Self { vm, id, bdf: bdf.to_owned(), restless: &[], connection })
    }

    /// These vectors may count more than what is fired.
    pub fn but(mut self, restless: &'static [u16]) -> Self {
        self.restless = restless;
        self
    }

    /// `vm.interrupts` of the function.
    pub fn interrupts(&mut self) -> Result<DeviceInterrupts> {
        let id = self.id;
        let request =
            format!("GET /api/v1/vm.interrupts?id={id} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut all = self.ask(&request)?.ok()?;
        serde_json::from_value(all[id].take())
            .map_err(|error| Error::Unexpected(format!("no interrupts ({error}): {all}")))
    }

    /// Waits until `count` vectors are live, and each of them is the kernel's or refused by the host.
    pub fn settle(&mut self, count: usize) -> Result<Vec<VectorState>> {
        until(&format!("{count} live vectors, routed or refused"), BRING_UP_LIMIT, || {
            let mut live = self.interrupts()?.vectors;
            live.retain(|vector| vector.guest.live);
            let is_settled =
                |v: &&VectorState| v.delivery.backend == Backend::Routed || v.host_error.is_some();
            let settled = live.iter().filter(is_settled).count();
            let all = live.len() == count && settled == count;
            let seen = || format!("{} live, {settled} settled", live.len());
            Ok(if all { Look::Holds(live) } else { Look::NotYet(seen()) })
        })
    }

    /// Waits until `count` vectors are live and the kernel's, each with an interrupt of the host.
    pub fn come_up(&mut self, count: usize) -> Result {
        let live = self.settle(count)?;
        let whole = |v: &VectorState| v.delivery.wired && v.host_error.is_none();
        let broken = live.iter().find(|vector| !whole(vector));
        ensure(broken.is_none(), || format!("of {count} vectors: {broken:?}"))
    }

    /// Fires each of the vectors once; the guest counts one more of each, and none more of any other.
    pub fn each_delivers_once(&mut self, vectors: &BTreeSet<u16>) -> Result {
        let before = self.counts()?;
        for vector in vectors {
            self.fire(*vector)?.ok()?;
        }
        let one_more =
            |(vector, count): (&u16, &u64)| (*vector, count + u64::from(vectors.contains(vector)));
        let expected: BTreeMap<u16, u64> = before.iter().map(one_more).collect();
        ensure(vectors.iter().all(|vector| expected.contains_key(vector)), || {
            format!("the guest's driver has {} of {} vectors", before.len(), vectors.len())
        })?;
        until(&format!("{} events", vectors.len()), ARRIVAL_LIMIT, || {
            let now = self.counts()?;
            let differs = |(vector, expected): (&u16, &u64)| {
                let seen = now.get(vector).copied().unwrap_or(0);
                let enough = self.restless.contains(vector) && seen > *expected;
                (seen != *expected && !enough).then_some((*vector, seen, *expected))
            };
            let different: Vec<_> = expected.iter().filter_map(differs).collect();
            if let Some(more) = different.iter().find(|(_, seen, expected)| seen > expected) {
                return Err(Error::Unexpected(format!("(vector, seen, expected): {more:?}")));
            }
            let missing = || format!("{} missing: {:?}", different.len(), different.first());
            Ok(if different.is_empty() { Look::Holds(()) } else { Look::NotYet(missing()) })
        })
    }

    /// Asks for a test interrupt.
    pub fn fire(&mut self, vector: u16) -> Result<Answer> {
        let body = json!({ "id": self.id, "vector": vector }).to_string();
        let length = body.len();
        self.ask(&format!(
            "PUT /api/v1/vm.test-interrupt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// What the guest has counted of each vector, all processors together (Linux 6.12).
    fn counts(&mut self) -> Result<BTreeMap<u16, u64>> {
        let rows = self.vm.guest.run(&format!(
            "awk '/PCI-MSIX-{}/ {{ n = 0; for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i; \
             print $(i + 1) + 0, n }}' /proc/interrupts",
            self.bdf
        ))?;
        let row = |row: &str| {
            let (vector, count) = row.split_once(' ')?;
            Some((vector.parse().ok()?, count.trim().parse().ok()?))
        };
        let counts: Option<_> = rows.lines().map(row).collect();
        counts.ok_or_else(|| Error::Unexpected(format!("no counts: {rows}")))
    }

    fn ask(&mut self, request: &str) -> Result<Answer> {
        self.connection.write_all(request.as_bytes()).doing("send a request")?;
        receive(&mut self.connection)
    }
}
