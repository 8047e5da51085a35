//! Stopping: first softly, then hard.
//!
//! **Owns** the two stages and what moves them on: SIGTERM or SIGINT begins draining; a second signal, or the deadline,
//! ends it. **Invariants**: a stage never goes back; no statics, so that tests have as many as they like. **Must not
//! know** what is being stopped.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Running,
    /// Readiness is down, intake stops, work in flight is finished.
    Draining,
    /// The deadline passed or somebody insisted: leave now. The rows make it safe.
    Aborting,
}

/// Why draining began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// A signal, or whoever started us asked for it: the exit code is 0 if draining ends in time.
    Asked,
    /// A part that should run for ever ended: the exit code says failure.
    Crashed,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    stage: Stage,
    cause: StopCause,
}

/// The owner's side: moves the stages on.
#[derive(Debug, Clone)]
pub struct Shutdown {
    progress: Arc<watch::Sender<Progress>>,
    deadline: Duration,
}

/// Everybody else's side: looks, or waits.
#[derive(Debug, Clone)]
pub struct ShutdownToken {
    progress: watch::Receiver<Progress>,
}

impl Shutdown {
    /// Running, with `deadline` as the longest time that draining may take.
    pub fn new(deadline: Duration) -> Self {
        let (progress, _) = watch::channel(Progress { stage: Stage::Running, cause: StopCause::Asked });
        Self { progress: Arc::new(progress), deadline }
    }

    /// A token to hand out.
    pub fn token(&self) -> ShutdownToken {
        ShutdownToken { progress: self.progress.subscribe() }
    }

    /// Begins draining; the first cause stays.
    pub fn drain(&self, cause: StopCause) {
        self.progress.send_if_modified(|progress| {
            let begins = progress.stage == Stage::Running;
            if begins {
                *progress = Progress { stage: Stage::Draining, cause };
            }
            begins
        });
    }

    /// Ends draining at once.
    pub fn abort(&self) {
        self.progress.send_if_modified(|progress| {
            let moves = progress.stage != Stage::Aborting;
            progress.stage = Stage::Aborting;
            moves
        });
    }

    /// How far stopping has come.
    pub fn stage(&self) -> Stage {
        self.progress.borrow().stage
    }

    /// Why draining began; meaningful once it has.
    pub fn cause(&self) -> StopCause {
        self.progress.borrow().cause
    }

    /// Watches signals and the deadline, until aborting; run it beside whatever is to be stopped, and drop it when that
    /// has ended.
    ///
    /// # Errors
    /// If the process cannot listen for signals.
    pub async fn watch_signals(&self) -> std::io::Result<()> {
        let mut signals = StopSignals::listen()?;
        let mut token = self.token();
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping: finishing what is in flight");
                self.drain(StopCause::Asked);
            }
            () = token.draining() => {}
        }
        tokio::select! {
            name = signals.next() => tracing::warn!(signal = name, "second signal: stopping at once"),
            () = tokio::time::sleep(self.deadline) => {
                tracing::warn!(deadline_ms = self.deadline.as_secs_f64() * 1000.0, "stopping took too long: leaving");
            }
            () = token.aborting() => {}
        }
        self.abort();
        Ok(())
    }
}

impl ShutdownToken {
    /// How far stopping has come.
    pub fn stage(&self) -> Stage {
        self.progress.borrow().stage
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        self.stage() >= Stage::Draining
    }

    /// Waits until draining begins, or the owner is gone.
    pub async fn draining(&mut self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits until work in flight is to be left, or the owner is gone.
    pub async fn aborting(&mut self) {
        self.reached(Stage::Aborting).await;
    }

    async fn reached(&mut self, stage: Stage) {
        if self.progress.wait_for(|progress| progress.stage >= stage).await.is_err() {
            tracing::debug!("whoever could stop us is gone: taken as stopping");
        }
    }
}

/// The signals that ask a process to stop, SIGTERM and SIGINT (Ctrl-C), heard from [`StopSignals::listen`] on.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens from now on, instead of ending at once.
    ///
    /// # Errors
    /// If the process cannot listen for signals.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Sent, raise};

    use super::*;

    #[tokio::test]
    async fn stages_only_go_forward_and_the_first_cause_stays() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let mut token = shutdown.token();
        assert!(!token.is_draining());
        shutdown.drain(StopCause::Crashed);
        shutdown.drain(StopCause::Asked);
        token.draining().await;
        assert_eq!((shutdown.stage(), shutdown.cause()), (Stage::Draining, StopCause::Crashed));
        shutdown.abort();
        shutdown.drain(StopCause::Asked);
        token.aborting().await;
        assert_eq!((token.stage(), shutdown.cause()), (Stage::Aborting, StopCause::Crashed));
    }

    #[tokio::test]
    async fn draining_that_takes_too_long_is_aborted_at_the_deadline() {
        let shutdown = Shutdown::new(Duration::from_millis(10));
        shutdown.drain(StopCause::Asked);
        shutdown.watch_signals().await.expect("listens");
        assert_eq!(shutdown.stage(), Stage::Aborting);
    }

    #[tokio::test]
    async fn one_signal_drains_and_a_second_aborts() {
        let shutdown = Shutdown::new(Duration::from_mins(10));
        let (watched, ()) = tokio::join!(shutdown.watch_signals(), async {
            let mut token = shutdown.token();
            // Listening begins with the first poll of the other branch, before this one.
            raise(Sent::SIGTERM).expect("sent");
            token.draining().await;
            assert_eq!(token.stage(), Stage::Draining);
            raise(Sent::SIGTERM).expect("sent");
            token.aborting().await;
        });
        watched.expect("listens");
        assert_eq!(shutdown.cause(), StopCause::Asked);
    }

    #[tokio::test]
    async fn a_token_whose_owner_is_gone_does_not_wait_for_ever() {
        let mut token = Shutdown::new(Duration::from_secs(1)).token();
        token.draining().await;
    }
}
