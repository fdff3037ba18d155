//! `hotbay`: a virtual machine monitor that hot-plugs host PCI functions.

use std::path::PathBuf;
use std::process::ExitCode;

use api::schema::console::{ConsoleConfig, ConsoleMode};
use api::schema::cpus::CpusConfig;
use api::schema::machine::VmConfig;
use api::schema::memory::MemoryConfig;
use api::schema::payload::PayloadConfig;
use clap::Parser;
use vmm::lifecycle::{Ending, Vmm, chain};
use vmm::{event_loop, signals};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    kernel: PathBuf,
    #[arg(long)]
    initramfs: Option<PathBuf>,
    #[arg(long, default_value = "")]
    cmdline: String,
    #[arg(long, default_value = "1")]
    cpus: u32,
    #[arg(long, default_value = "512")]
    memory: u64,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("hotbay: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), String> {
    let (_sender, calls) = api::mailbox::mailbox().map_err(|error| error.to_string())?;
    let signals = signals::Signals::catch().map_err(|error| error.to_string())?;
    let mut vmm = Vmm::new().map_err(|error| error.to_string())?;
    let payload = Some(PayloadConfig {
        kernel: Some(args.kernel),
        initramfs: args.initramfs,
        cmdline: Some(args.cmdline),
    });
    let serial = ConsoleConfig::of(ConsoleMode::Tty);
    let cpus = CpusConfig { boot_vcpus: args.cpus, max_vcpus: args.cpus };
    let memory = MemoryConfig { size: args.memory << 20, ..MemoryConfig::default() };
    let config = VmConfig { payload, serial, cpus, memory, ..VmConfig::default() };
    vmm.create(config).map_err(|error| chain(&error))?;
    vmm.boot(None);
    match event_loop::run(vmm, calls, signals).map_err(|error| chain(&error))? {
        Ending::Asked => Ok(()),
        Ending::Failed(reason) => Err(reason),
    }
}
