//! Which reset each of a machine's functions gets, and who is reset together.
//!
//! The kernel resets most functions alone. One that it cannot is reset with its
//! whole slot or bus, a hot reset; so that happens only where all functions are
//! to be reset at once (a reboot), and only if it hits none but this machine's.
//!
//! A change of the power state is the weakest of the kernel's resets: it leaves some
//! functions as they were, rings and all, though they say that it resets them. So a
//! hot reset goes before it, also when a function arrives: what it did for the guest
//! before, it would do to the RAM of this one as soon as a driver lets it be a bus
//! master.

use std::io;
use std::sync::Arc;

use crate::vfio::function::Passthrough;
use crate::vfio::iommu::Attachment;
use crate::vfio::sys::device::{Affected, Device};

/// The kernel's name for a reset by D3hot and back (Linux `pci_pm_reset`).
const POWER_STATE: &str = "pm";

/// What the kernel, or a server, offers for a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// To reset it alone, by this method: the first one that sysfs lists, such as
    /// `flr`, `pm` or `bus` (Linux `Documentation/ABI/testing/sysfs-bus-pci`).
    Alone(String),
    /// To reset all these at once.
    Together {
        /// Who they are.
        reach: Vec<Affected>,
        /// The weaker way to reset it alone, if there is one.
        alone: Option<String>,
    },
    /// Nothing, because of this.
    Nothing(String),
}

/// The reset that a function will get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// Alone, by this method.
    Alone(String),
    /// With others.
    Together,
    /// None, because of this. At least its interrupts and its DMA end.
    Nothing(String),
}

impl Means {
    /// Of an open function, of which sysfs lists `methods`.
    pub fn of(device: &Device, methods: &[String]) -> Self {
        let first = methods.first().map_or("kernel", String::as_str);
        let alone = device.is_resettable().then(|| first.to_owned());
        match alone {
            Some(method) if method != POWER_STATE => Self::Alone(method),
            alone => Self::weighed(alone, device.hot_reset_reach()),
        }
    }

    /// Of a function that has at most a weak reset of its own.
    fn weighed(alone: Option<String>, reach: io::Result<Vec<Affected>>) -> Self {
        match (reach, alone) {
            (Ok(reach), alone) => Self::Together { reach, alone },
            (Err(_), Some(method)) => Self::Alone(method),
            (Err(error), None) if error.raw_os_error() == Some(libc::ENODEV) => {
                Self::Nothing("the kernel can reset neither it nor its bus".to_owned())
            }
            (Err(error), None) => Self::Nothing(format!("the kernel cannot reset it: {error}")),
        }
    }

    /// Whether `name`, whose means they are, is better reset once more when it
    /// arrives: the kernel's reset at its opening was the weak one, and another hits
    /// nobody else.
    pub fn is_better_on_arrival(&self, name: &str) -> bool {
        let Self::Together { reach, alone: Some(_) } = self else { return false };
        matches!(&reach[..], [only] if only.name == name)
    }

    /// Of the function of a server, which resets it or not.
    pub fn of_server(device: &Device) -> Self {
        match device.is_resettable() {
            true => Self::Alone("vfio-user".to_owned()),
            false => Self::Nothing("its vfio-user server offers no reset".to_owned()),
        }
    }
}

/// What is to be reset, as far as the choice of a reset needs it.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    name: &'a str,
    /// One that a server emulates is in none.
    group: Option<u32>,
    means: &'a Means,
}

impl<'a> Candidate<'a> {
    fn of(function: &'a Passthrough) -> Self {
        let group = function.group().map(|group| group.number());
        let name = function.name();
        Self { name, group, means: function.means() }
    }
}

/// Candidates, by their positions, that one reset is for.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    /// The first one's device is asked to do it.
    members: Vec<usize>,
    method: Method,
}

/// The reset of one function, or of some that share it. Both halves are for
/// a worker.
pub struct Step {
    functions: Vec<Arc<Passthrough>>,
    groups: Vec<Arc<Attachment>>,
    method: Method,
}

/// What resets all `functions`, which are all that a machine has. Steps can be run
/// at once. Nobody may use the functions meanwhile.
pub fn steps(functions: &[Arc<Passthrough>]) -> Vec<Step> {
    let candidates: Vec<_> = functions.iter().map(|f| Candidate::of(f)).collect();
    let step = |Set { members, method }: Set| {
        let reach = members.first().map_or(&[][..], |first| reach(&candidates[*first]));
        let held = |wanted: u32| {
            let mut held = functions.iter().filter_map(|function| function.group());
            held.find(|group| group.number() == wanted).cloned()
        };
        let groups = groups(reach).into_iter().filter_map(held).collect();
        let functions = members.into_iter().map(|member| Arc::clone(&functions[member])).collect();
        Step { functions, groups, method }
    };
    sets(&candidates).into_iter().map(step).collect()
}

/// The reset that each of `functions` would get now, in their order.
pub fn methods(functions: &[&Passthrough]) -> Vec<Method> {
    let candidates: Vec<_> = functions.iter().map(|f| Candidate::of(f)).collect();
    let mut methods: Vec<_> = candidates.iter().map(|_| Method::Together).collect();
    for Set { members, method } in sets(&candidates) {
        members.into_iter().for_each(|member| methods[member] = method.clone());
    }
    methods
}

impl Step {
    /// Takes everything the guest wrote from the functions: interrupts, BARs, DMA.
    /// Afterwards they write no memory any more.
    ///
    /// # Errors
    /// One of them does not answer, and may write memory until it is reset.
    pub fn quiesce(&self) -> io::Result<()> {
        let results: Vec<_> = self.functions.iter().map(|function| function.quiesce()).collect();
        results.into_iter().collect()
    }

    /// Resets the functions, which are quiet; that may take 100 ms. Each knows the
    /// result afterwards.
    ///
    /// # Errors
    /// There is no reset for them, or the kernel says that it has failed. They are
    /// quiet all the same: no interrupts, no DMA, no BARs.
    pub fn reset(&self) -> io::Result<()> {
        let result = self.perform();
        self.functions.iter().for_each(|function| function.health().was_reset(&result));
        result
    }

    /// Names of the functions on the host.
    pub fn names(&self) -> Vec<&str> {
        self.functions.iter().map(|function| function.name()).collect()
    }

    fn perform(&self) -> io::Result<()> {
        let Some(first) = self.functions.first() else { return Ok(()) };
        match &self.method {
            Method::Alone(_) => first.device().reset(),
            Method::Together => {
                let groups: Vec<_> = self.groups.iter().map(|group| group.group()).collect();
                first.device().hot_reset(&groups)
            }
            Method::Nothing(why) => Err(io::Error::other(why.clone())),
        }
    }
}

/// Sorts all candidates into sets, each into one.
fn sets(candidates: &[Candidate<'_>]) -> Vec<Set> {
    let mut sets: Vec<Set> = Vec::new();
    let mut hot: Vec<usize> =
        (0..candidates.len()).filter(|at| !reach(&candidates[*at]).is_empty()).collect();
    // The widest first: whoever it reaches needs no reset of their own.
    hot.sort_by_key(|at| std::cmp::Reverse(reach(&candidates[*at]).len()));
    let mut done = vec![false; candidates.len()];
    for leader in hot {
        if !done[leader] {
            let set = together(candidates, leader);
            set.members.iter().for_each(|member| done[*member] = true);
            sets.push(set);
        }
    }
    let alone = (0..candidates.len()).filter(|at| !done[*at]);
    sets.extend(alone.map(|at| Set { members: vec![at], method: alone_by(candidates[at].means) }));
    sets
}

/// The set that `leader`'s hot reset is for.
fn together(candidates: &[Candidate<'_>], leader: usize) -> Set {
    let reach = reach(&candidates[leader]);
    let held = |group: u32| candidates.iter().any(|candidate| candidate.group == Some(group));
    if let Some(stranger) = reach.iter().find(|affected| !held(affected.group)) {
        return Set { members: vec![leader], method: beside(stranger, candidates[leader].means) };
    }
    let hit = |at: &usize| reach.iter().any(|affected| affected.name == candidates[*at].name);
    let others = (0..candidates.len()).filter(|at| *at != leader && hit(at));
    Set { members: [leader].into_iter().chain(others).collect(), method: Method::Together }
}

/// The reset of a function whose hot reset would hit `stranger`.
fn beside(stranger: &Affected, means: &Means) -> Method {
    if let Means::Together { alone: Some(method), .. } = means {
        return Method::Alone(method.clone());
    }
    let Affected { name, group } = stranger;
    Method::Nothing(format!(
        "it can only be reset together with {name}, whose IOMMU group {group} this VM does not have"
    ))
}

fn alone_by(means: &Means) -> Method {
    match means {
        Means::Alone(method) | Means::Together { alone: Some(method), .. } => {
            Method::Alone(method.clone())
        }
        // A hot reset that reaches nobody: the kernel does not say whom it would hit.
        Means::Together { alone: None, .. } => {
            Method::Nothing("the kernel does not say what it would hit".into())
        }
        Means::Nothing(why) => Method::Nothing(why.clone()),
    }
}

fn reach<'a>(candidate: &Candidate<'a>) -> &'a [Affected] {
    match candidate.means {
        Means::Together { reach, .. } => reach,
        Means::Alone(_) | Means::Nothing(_) => &[],
    }
}

/// Each group once.
fn groups(reach: &[Affected]) -> Vec<u32> {
    let mut groups: Vec<u32> = reach.iter().map(|affected| affected.group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[cfg(test)]
mod tests;
