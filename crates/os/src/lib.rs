//! What nix lacks in safe form: descriptor passing, pidfd, seals, pinning, notification.
//!
//! - [`now`], [`unix_now`]: the only readers of a clock. [`boot_id`]: whose monotonic clock it is.
//! - [`memfd`], [`seal`], [`seals`], [`eventfd`], [`ring_eventfd`], [`hear_eventfd`]: descriptors of memory and of doorbells.
//! - [`seqpacket_pair`], [`seqpacket_listen`], [`send_with_fds`], [`recv_with_fds`]: whole messages with descriptors between processes.
//! - [`spawn_worker`], [`pidfd_open`], [`pidfd_signal`], [`reap`]: processes, named by descriptors that never name a stranger.
//! - [`Executable`], [`program_of`]: programs held open, so that what is run stays the same whatever becomes of their names.
//! - [`inherited_descriptors`], [`hand_over_descriptors`]: what a service manager kept for us, and how it does.
//! - [`pin_current_thread`], [`drop_privileges`], [`lookup_user`], [`die_with_parent`], [`give_way`]: what a process of ours does to itself at its start.
//! - [`Mapping`], [`memfd_huge`]: shared memory in huge pages. [`SealedMap`]: memory that nobody changes any more.
//! - [`threads`], [`ask_for_stack`], [`answer_for_stacks`]: where a thread is that does not answer.
//! - [`watch_faults`], [`leave_word_at`]: which thread was the end of a process.
//! - [`udp_socket`], [`attach_reuseport_random`]: the sockets of a listener. [`addresses`], [`sources`]: what this machine is called, and from where it reaches whom.
//!
//! Every descriptor made here is closed on exec.

mod channel;
mod clock;
mod descriptor;
mod executable;
mod fault;
mod huge;
mod inherited;
mod interfaces;
mod process;
mod sealed;
mod stack;
mod udp;
mod user;

pub use channel::{
    FDS_MAX, block_for, never_block, peer_uid, recv_with_fds, send_with_fds, seqpacket_accept,
    seqpacket_connect, seqpacket_listen, seqpacket_pair, unread_bytes,
};
pub use clock::{boot_id, now, unix_now};
pub use descriptor::{Seals, eventfd, hear_eventfd, memfd, ring_eventfd, seal, seals};
pub use executable::{Executable, FileIdentity, program_of, take_descriptor};
pub use fault::{leave_word_at, watch_faults};
pub use huge::{HUGE_PAGE, Mapping, huge_pages_free, memfd_huge, shared_memory_may_be_huge};
pub use inherited::{hand_over_descriptors, inherited_descriptors};
pub use interfaces::{SourceFor, addresses, sources};
pub use process::{
    CONTROL_FD, Child, Exit, die_with_parent, give_way, is_dead, is_stopped,
    outlive_file_size_limit, pid_of, pidfd_open, pidfd_signal, pin_current_thread, reap,
    spawn_worker, start_ticks, take_control_channel, unpin_current_thread,
};
pub use sealed::{FOR_GOOD, SealedMap};
pub use stack::{STACK_SIGNAL, Thread, answer_for_stacks, ask_for_stack, threads};
pub use udp::{
    FILTERED_MAX, attach_reuseport_random, datagrams_dropped, filter_beginning,
    receive_buffer_bytes, udp_socket,
};
pub use user::{User, drop_privileges, lookup_user};
