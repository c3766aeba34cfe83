//! How long the kernel takes to tell of a worker's death: from SIGKILL to the pidfd, for arenas of small and of huge pages that the worker has touched
//! all over. `cargo run --release -p shm --example exit -- [MiB ...]`

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use shm::{Arena, HugePages, Layout};

const ROUNDS: usize = 9;

fn map(arena: &Arena) -> os::Mapping {
    let (_, data) = arena.fds().expect("files");
    let len = nix::sys::stat::fstat(data).expect("a length").st_size as u64;
    os::Mapping::new(data, len).expect("a mapping")
}

/// Reads a byte of every page.
fn touch(mapping: &os::Mapping) -> u64 {
    let byte = |page: usize| {
        // SAFETY: inside the mapping.
        let at = unsafe { mapping.base().add(page * 4096) };
        // SAFETY: as above; nobody writes.
        u64::from(unsafe { at.read_volatile() })
    };
    (0..mapping.len() / 4096).map(byte).sum()
}

/// One worker: attached, everything touched, killed.
fn death(arena: &Arena) -> Duration {
    let (mine, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    // SAFETY: the child uses nothing that another thread of this process holds: there is none.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Child => stay(arena, &theirs),
        ForkResult::Parent { child } => {
            let mut byte = [0];
            std::io::Read::read_exact(&mut &mine, &mut byte).expect("the child is ready");
            time(child)
        }
    }
}

fn stay(arena: &Arena, ready: &std::os::unix::net::UnixStream) -> ! {
    // Its own mapping stays until it dies, as a worker's does.
    let mapping = map(arena);
    std::hint::black_box(touch(&mapping));
    std::io::Write::write_all(&mut &*ready, &[1]).expect("the parent listens");
    loop {
        std::thread::park();
    }
}

fn time(child: Pid) -> Duration {
    let pidfd = os::pidfd_open(child.as_raw() as u32).expect("a pidfd");
    let start = Instant::now();
    kill(child, Signal::SIGKILL).expect("our child");
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).expect("poll");
    let took = start.elapsed();
    waitpid(child, None).expect("our child");
    took
}

fn main() {
    let sizes: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![256, 1024]
    } else {
        sizes
    };
    for mib in sizes {
        for huge in [HugePages::Off, HugePages::Auto] {
            let arena = match Arena::create_paged(&Layout::new(mib << 20, 2, 2, 2), [1; 16], huge) {
                Ok(arena) => arena,
                Err(error) => {
                    println!("{mib} MiB, {huge:?}: {error}");
                    continue;
                }
            };
            arena.back_ahead(u32::MAX).expect("memory");
            let start = Instant::now();
            let done = if huge == HugePages::Auto {
                arena.collapse(0, || true)
            } else {
                shm::Collapsed::default()
            };
            let gathering = start.elapsed();
            std::hint::black_box(touch(&map(&arena)));
            let mut times: Vec<Duration> = (0..ROUNDS).map(|_| death(&arena)).collect();
            times.sort_unstable();
            println!(
                "{mib} MiB, pages {}: kill to pidfd median {:?}, worst {:?} ({} MiB gathered in {gathering:?}, {} MiB refused)",
                arena.paging().name(),
                times[ROUNDS / 2],
                times[ROUNDS - 1],
                done.huge >> 20,
                done.refused >> 20
            );
        }
    }
}
