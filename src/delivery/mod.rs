//! Delivery: who gets an event (`plan`), and sending it.

pub mod plan;
