//! Between HTTP and [`Request`], both ways: the only place that knows paths.

use std::os::fd::OwnedFd;

use micro_http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptors::{Fds, Handed};
use crate::request::{Fault, Request, Status, code};
use crate::schema::events::{Follow, LONGEST_WAIT_MS};
use crate::schema::known::NOT_OFFERED;
use crate::schema::net::NetConfig;

pub use self::absent::{ABSENT, Absent};
use self::query::Query;

mod absent;
mod query;

/// What every path begins with; the rest is the verb.
pub const PREFIX: &str = "/api/v1/";

/// One verb and how the rest of the request is read.
#[derive(Debug)]
pub struct Route {
    /// Last part of the path, such as `vm.boot`.
    pub verb: &'static str,
    /// The one method it answers to.
    pub method: Method,
    read: Read,
}

/// What a verb expects beside its name.
#[derive(Debug)]
enum Read {
    /// Nothing.
    Bare(fn() -> Request),
    /// These parameters in the path, each at will.
    Query(&'static [&'static str], fn(Query) -> Result<Request, String>),
    /// JSON.
    Json(fn(&[u8]) -> serde_json::Result<Request>),
}

/// Every verb hotbay has.
pub const ROUTES: &[Route] = &[
    bare(Method::Get, "vmm.ping", || Request::Ping),
    bare(Method::Put, "vmm.shutdown", || Request::VmmShutdown),
    json("vm.create", |body| read(body).map(Box::new).map(Request::Create)),
    bare(Method::Put, "vm.boot", || Request::Boot),
    bare(Method::Get, "vm.info", || Request::Info),
    json("vm.add-device", |body| read(body).map(Request::AddDevice)),
    json("vm.add-disk", |body| read(body).map(Request::AddDisk)),
    json("vm.add-net", |body| read(body).map(Request::AddNet)),
    json("vm.add-vsock", |body| read(body).map(Request::AddVsock)),
    json("vm.add-user-device", |body| read(body).map(Request::AddUserDevice)),
    json("vm.resize", |body| read(body).map(Request::Resize)),
    json("vm.check-device", |body| read(body).map(Request::CheckDevice)),
    json("vm.remove-device", |body| read(body).map(Request::RemoveDevice)),
    bare(Method::Put, "vm.shutdown", || Request::Shutdown),
    bare(Method::Put, "vm.reboot", || Request::Reboot),
    bare(Method::Put, "vm.pause", || Request::Pause),
    bare(Method::Put, "vm.resume", || Request::Resume),
    bare(Method::Put, "vm.delete", || Request::Delete),
    bare(Method::Put, "vm.nmi", || Request::Nmi),
    bare(Method::Put, "vm.power-button", || Request::PowerButton),
    bare(Method::Get, "vm.counters", || Request::Counters),
    query("vm.events", &[SINCE, WAIT_MS], |query| events(query).map(Request::Events)),
    query("vm.interrupts", &[ID], |mut query| Ok(Request::Interrupts(query.take(ID)))),
    json("vm.test-interrupt", |body| read(body).map(Request::TestInterrupt)),
];

/// A device, as a parameter.
const ID: &str = "id";
/// The last event that a client knows.
const SINCE: &str = "since";
/// How long a client waits for the next.
const WAIT_MS: &str = "wait_ms";

/// Reads one HTTP request.
///
/// # Errors
/// 404, 405, 501 for the path and method; 400 for its parameters and the body.
pub fn parse(method: Method, path: &str, body: &[u8]) -> Result<Request, Fault> {
    let Some(route) = find(path) else { return Err(no_route(method, path)) };
    if route.method != method {
        return Err(wrong_method(method, (route.verb, route.method)));
    }
    let query = Query::parse(path, route.parameters()).map_err(|why| bad_query(route, &why))?;
    match route.read {
        Read::Bare(_) | Read::Query(..) if !body.is_empty() => {
            Err(bad_body(route, "it takes none"))
        }
        Read::Bare(request) => Ok(request()),
        Read::Query(_, request) => request(query).map_err(|why| bad_query(route, &why)),
        Read::Json(_) if body.is_empty() => Err(bad_body(route, "it is empty; JSON is expected")),
        Read::Json(read) => read(body).map_err(|error| bad_body(route, &error.to_string())),
    }
}

/// Gives `request` the descriptors that came with it.
///
/// # Errors
/// 400: it takes none, or not so many.
pub fn hand(request: Request, came: Vec<OwnedFd>) -> Result<Request, Fault> {
    let count = came.len();
    let Request::AddNet(card) = request else {
        return match count {
            0 => Ok(request),
            _ => Err(bad_descriptors("this request takes none".to_owned())),
        };
    };
    match card.fds.as_ref().map_or(count, Fds::count) {
        promised if promised != count => Err(bad_descriptors(format!(
            "`fds` has {promised}, {count} came; send them with the request (SCM_RIGHTS), or give `tap`"
        ))),
        0 => Ok(Request::AddNet(card)),
        _ => Ok(Request::AddNet(NetConfig { fds: Some(Fds::Here(came.into())), ..card })),
    }
}

/// The method a path answers to, for the `Allow` header of a 405.
pub fn allowed(path: &str) -> Option<Method> {
    let absent = || find_absent(path).map(|absent| absent.method);
    find(path).map(|route| route.method).or_else(absent)
}

impl Route {
    /// Parameters that the verb takes.
    fn parameters(&self) -> &'static [&'static str] {
        match self.read {
            Read::Query(parameters, _) => parameters,
            Read::Bare(_) | Read::Json(_) => &[],
        }
    }
}

/// A request as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// HTTP method.
    pub method: Method,
    /// Path with the prefix and the parameters.
    pub path: String,
    /// JSON body, for the verbs that have one.
    pub body: Option<String>,
    /// Descriptors that go along.
    pub handed: Option<Handed>,
}

impl Wire {
    /// `vm.resize` with a body that is sent as it is, for the server to judge.
    pub fn resize(body: String) -> Self {
        Self::put("vm.resize", body)
    }

    /// `vm.create` with a body that is sent as it is, for the server to judge.
    pub fn create(body: String) -> Self {
        Self::put("vm.create", body)
    }

    /// One of [`ABSENT`]'s verbs: another server may have it.
    pub fn absent(verb: &str, body: String) -> Self {
        Self::put(verb, body)
    }

    fn put(verb: &str, body: String) -> Self {
        let path = format!("{PREFIX}{verb}");
        Self { method: allowed(&path).unwrap_or(Method::Put), path, body: Some(body), handed: None }
    }
}

/// Writes what [`parse`] reads.
///
/// # Errors
/// When the body cannot be JSON: a path in it is not UTF-8.
pub fn write(request: &Request) -> serde_json::Result<Wire> {
    let (verb, body) = match request {
        Request::Ping => ("vmm.ping", None),
        Request::VmmShutdown => ("vmm.shutdown", None),
        Request::Create(config) => ("vm.create", Some(text(config)?)),
        Request::Boot => ("vm.boot", None),
        Request::Info => ("vm.info", None),
        Request::AddDevice(body) => ("vm.add-device", Some(text(body)?)),
        Request::AddDisk(body) => ("vm.add-disk", Some(text(body)?)),
        Request::AddNet(body) => ("vm.add-net", Some(text(&unaccompanied(body))?)),
        Request::AddVsock(body) => ("vm.add-vsock", Some(text(body)?)),
        Request::AddUserDevice(body) => ("vm.add-user-device", Some(text(body)?)),
        Request::Resize(body) => ("vm.resize", Some(text(body)?)),
        Request::CheckDevice(body) => ("vm.check-device", Some(text(body)?)),
        Request::RemoveDevice(body) => ("vm.remove-device", Some(text(body)?)),
        Request::Shutdown => ("vm.shutdown", None),
        Request::Reboot => ("vm.reboot", None),
        Request::Pause => ("vm.pause", None),
        Request::Resume => ("vm.resume", None),
        Request::Delete => ("vm.delete", None),
        Request::Nmi => ("vm.nmi", None),
        Request::PowerButton => ("vm.power-button", None),
        Request::Counters => ("vm.counters", None),
        Request::Events(_) => ("vm.events", None),
        Request::Interrupts(_) => ("vm.interrupts", None),
        Request::TestInterrupt(body) => ("vm.test-interrupt", Some(text(body)?)),
    };
    let path = format!("{PREFIX}{verb}{}", query::write(&parameters(request)));
    let mut handed = None;
    if let Request::AddNet(NetConfig { fds: Some(Fds::Here(here)), .. }) = request {
        handed = Some(here.clone());
    }
    Ok(Wire { method: allowed(&path).unwrap_or(Method::Put), path, body, handed })
}

/// The same without what goes beside the body, as ch-remote sends it.
fn unaccompanied(card: &NetConfig) -> NetConfig {
    let fds = card.fds.clone().filter(|fds| !matches!(fds, Fds::Here(_)));
    NetConfig { fds, ..card.clone() }
}

/// Parameters of the path.
fn parameters(request: &Request) -> Vec<(&'static str, String)> {
    if let Request::Interrupts(id) = request {
        return id.iter().map(|id| (ID, id.clone())).collect();
    }
    let Request::Events(Follow { since, wait_ms }) = request else { return Vec::new() };
    let numbers = [(SINCE, since), (WAIT_MS, wait_ms)];
    numbers
        .iter()
        .filter_map(|(name, number)| Some((*name, number.as_ref()?.to_string())))
        .collect()
}

fn events(mut query: Query) -> Result<Follow, String> {
    let (since, wait_ms) = (query.number(SINCE)?, query.number(WAIT_MS)?);
    if wait_ms.is_some_and(|wait_ms| wait_ms > LONGEST_WAIT_MS) {
        return Err(format!("`{WAIT_MS}` is at most {LONGEST_WAIT_MS}; ask again after that"));
    }
    Ok(Follow { since, wait_ms })
}

const fn bare(method: Method, verb: &'static str, request: fn() -> Request) -> Route {
    Route { verb, method, read: Read::Bare(request) }
}

const fn query(
    verb: &'static str,
    parameters: &'static [&'static str],
    request: fn(Query) -> Result<Request, String>,
) -> Route {
    Route { verb, method: Method::Get, read: Read::Query(parameters, request) }
}

const fn json(verb: &'static str, read: fn(&[u8]) -> serde_json::Result<Request>) -> Route {
    Route { verb, method: Method::Put, read: Read::Json(read) }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body)
}

fn text(body: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(body)
}

fn find(path: &str) -> Option<&'static Route> {
    let verb = verb(path)?;
    ROUTES.iter().find(|route| route.verb == verb)
}

fn find_absent(path: &str) -> Option<&'static Absent> {
    let verb = verb(path)?;
    ABSENT.iter().find(|absent| absent.verb == verb)
}

/// The path without prefix and parameters.
fn verb(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX)?.split('?').next()
}

/// Why a path leads to no route.
fn no_route(method: Method, path: &str) -> Fault {
    match find_absent(path) {
        Some(absent) if absent.method == method => absent.fault(),
        Some(absent) => wrong_method(method, (absent.verb, absent.method)),
        None => Fault::plain(
            Status::NotFound,
            code::API_NO_SUCH_PATH,
            format_args!("there is no {path:?}; paths look like {PREFIX}vm.info"),
        ),
    }
}

fn wrong_method(method: Method, (verb, right): (&str, Method)) -> Fault {
    Fault::plain(
        Status::MethodNotAllowed,
        code::API_WRONG_METHOD,
        format_args!("{verb} is asked with {}, not {}", right.to_str(), method.to_str()),
    )
}

fn bad_query(route: &Route, why: &str) -> Fault {
    let asked = format_args!("cannot use the parameters of {}", route.verb);
    let mut fault = Fault::plain(Status::BadRequest, code::API_BAD_QUERY, asked);
    fault.chain.push(why.to_owned());
    fault
}

fn bad_body(route: &Route, why: &str) -> Fault {
    let code = if why.contains(NOT_OFFERED) { code::API_NOT_OFFERED } else { code::API_BAD_BODY };
    let mut fault = Fault::plain(
        Status::BadRequest,
        code,
        format_args!("cannot use the body of {}", route.verb),
    );
    fault.chain.push(why.to_owned());
    fault
}

fn bad_descriptors(why: String) -> Fault {
    let asked = "cannot use the descriptors of the request";
    let mut fault = Fault::plain(Status::BadRequest, code::API_BAD_DESCRIPTORS, asked);
    fault.chain.push(why);
    fault
}

#[cfg(test)]
mod tests;
