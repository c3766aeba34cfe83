//! Black-box tests of the real server, one topic a file.
#![forbid(unsafe_code)]

mod adoption;
mod arena_carries;
mod bad_input;
mod balancing;
mod calls;
mod calls_per_second;
mod cdr;
mod cold_restart;
mod commands;
mod digest;
mod dns;
mod failpoints;
mod great_storm;
mod json_fields;
mod kill_storm;
mod load;
mod log;
mod media;
mod overload;
mod prefix_routing;
mod proxy_forking;
mod proxy_rules;
mod proxy_targets;
mod quarantine;
mod register_and_call;
mod reload;
mod rolling_restart;
mod several_addresses;
mod spawn_kill_rounds;
mod start_errors;
mod take_over;
mod topology;
mod torture;
mod upgrade;
mod watchdog;
