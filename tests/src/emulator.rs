//! A vfio-user server of our own: a PCI function of 1 to 2,048 MSI-X vectors that copies memory, and misbehaves when told to.
//!
//! | BAR | is |
//! |---|---|
//! | 0 | [`register`]s, 4 KiB |
//! | 1 | 64 KiB of memory, of which all but the first page may be mapped |
//! | 2 | the MSI-X table at 0, and the pending bits at 0x8000, unless they are in a BAR of their own |
//! | 4 | the pending bits, then |
//!
//! `wire` has its messages, `device` what they mean, `process` runs it for a scene.

mod device;
mod process;
mod wire;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use self::device::{Device, Mood};
use self::wire::Channel;

pub use self::device::{IDENTITY, Shape, register};
pub use self::process::Emulator;

/// Accepts one client after the other and serves it, each with a device as it is at power-on.
pub fn serve(listener: &UnixListener, shape: Shape) -> io::Result<()> {
    for client in listener.incoming() {
        let mut device = Device::new(shape)?;
        // One that hangs up in the middle of a message is as gone as any other.
        if let Err(error) = converse(client?, &mut device) {
            eprintln!("emulator: {error}");
        }
    }
    Ok(())
}

/// Answers until the client hangs up.
fn converse(client: UnixStream, device: &mut Device) -> io::Result<()> {
    let mut channel = Channel::new(client);
    while let Some(message) = channel.next()? {
        let (header, answer) = (message.header, device.answer(message, &mut channel));
        match device.mood() {
            Mood::Sane => channel.reply(header, answer)?,
            Mood::Silent => {}
            Mood::Garbled => channel.send(&[0xff; 64], &[])?,
            // As somebody who is killed: nothing is tidied up.
            Mood::Dying => std::process::abort(),
        }
    }
    Ok(())
}
