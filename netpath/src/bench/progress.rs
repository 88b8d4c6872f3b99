//! How far a run is: a bar on a terminal, lines elsewhere. All on standard error.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The progress of a run.
pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    total: u64,
    done: Cell<u64>,
}

impl Progress {
    /// Without steps yet.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::default_spinner());
            bar
        });
        Self {
            bar,
            started: Instant::now(),
            total: 0,
            done: Cell::new(0),
        }
    }

    /// From now on there are steps.
    pub fn begin(&mut self, steps: u64) {
        self.started = Instant::now();
        self.total = steps;
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
            let form = "{bar:30} {pos}/{len} {elapsed} of about {duration}  {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style);
            }
        }
    }

    /// A stage begins that has no steps.
    pub fn stage(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(what.to_owned());
                bar.tick();
            }
            None => eprintln!("{what}"),
        }
    }

    /// A round begins.
    pub fn round(&self, round: u32, rounds: u32) {
        if self.bar.is_some() {
            return;
        }
        let done = self.done.get();
        let left = if done == 0 {
            String::new()
        } else {
            let each = self.started.elapsed().as_secs_f64() / done as f64;
            let seconds = each * self.total.saturating_sub(done) as f64;
            format!(", about {seconds:.0} s left")
        };
        eprintln!("round {} of {rounds}{left}", round + 1);
    }

    /// A step begins.
    pub fn step(&self, what: &str) {
        self.done.set(self.done.get() + 1);
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            bar.inc(1);
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
