//! The whole gateway: the real binary as a child process, real HTTP on both sides, both databases.

mod crash;
mod demo;
mod event_keys;
mod simulators;
mod support;
