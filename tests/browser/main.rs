//! The console in a real browser: Chromium against the real gateway and the simulated providers.
//!
//! Without Chromium and chromedriver these tests skip, said aloud; `REQUIRE_BROWSER=1` makes that a failure.

mod checks;
mod connecting;
mod example_client;
mod furnished;
mod keyboard;
mod mending;
mod pages;
mod signing_in;
mod stage;
mod staying_fresh;
mod subscriptions;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, unused_macros, reason = "shared with tests/it, which uses the rest")]
mod support;
mod webdriver;
