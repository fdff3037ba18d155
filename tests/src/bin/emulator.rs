//! A vfio-user server: `emulator SOCKET VECTORS [split] [mute]` serves the function of `tests::emulator`.

use std::env;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::emulator::{Shape, serve};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [socket, vectors, words @ ..] = &arguments[..] else { return ExitCode::FAILURE };
    let said = |word: &str| words.iter().any(|said| said == word);
    let Some(vectors) = vectors.parse().ok().filter(|vectors| (1..=2048).contains(vectors)) else {
        return ExitCode::FAILURE;
    };
    // Each vector in use is a descriptor.
    let files = Resource::RLIMIT_NOFILE;
    if let Err(error) = getrlimit(files).and_then(|(_, most)| setrlimit(files, most, most)) {
        eprintln!("emulator: as few descriptors as before: {error}");
    }
    let shape = Shape { vectors, split: said("split"), mute: said("mute") };
    let served = UnixListener::bind(socket).and_then(|listener| serve(&listener, shape));
    if let Err(error) = served {
        eprintln!("emulator: {error}");
    }
    ExitCode::FAILURE
}
