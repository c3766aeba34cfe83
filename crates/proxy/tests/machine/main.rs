//! The machine as a worker drives it, in a world of scripted phones: whole flows, late answers, deaths at every step.

mod deaths;
mod flows;
mod full;
mod media;
mod probing;
mod questions;
mod random;
mod slots;
mod world;
