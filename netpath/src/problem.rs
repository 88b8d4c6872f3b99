//! Errors that a user can do something about.
//!
//! Everything fallible returns [`anyhow::Error`]. A [`Problem`] inside such an error says
//! whose mistake it is, and the API turns it into an HTTP status; an error without one is
//! the agent's own trouble (500).

use std::fmt;

/// Whose mistake an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense, whatever the state of the host.
    Invalid,
    /// It names something that does not exist.
    NotFound,
    /// It contradicts what exists: a name or a port that is taken, a network in use.
    Conflict,
}

/// A sentence for the user: names the thing and, where there is one, the way out.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Whose mistake it is.
    pub kind: Kind,
    /// The sentence: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// An error of kind [`Kind::Invalid`].
pub fn invalid(message: impl Into<String>) -> anyhow::Error {
    Problem {
        kind: Kind::Invalid,
        message: message.into(),
    }
    .into()
}

/// An error of kind [`Kind::NotFound`].
pub fn not_found(message: impl Into<String>) -> anyhow::Error {
    Problem {
        kind: Kind::NotFound,
        message: message.into(),
    }
    .into()
}

/// An error of kind [`Kind::Conflict`].
pub fn conflict(message: impl Into<String>) -> anyhow::Error {
    Problem {
        kind: Kind::Conflict,
        message: message.into(),
    }
    .into()
}

/// As much of what somebody wrote as fits into a sentence, in quotation marks.
pub fn quoted(text: &str) -> String {
    const MUCH: usize = 80;
    let mut shown: String = text.chars().take(MUCH).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{}\"", shown.escape_debug())
}

/// Whose mistake `error` is; `None` for trouble of our own.
pub fn kind_of(error: &anyhow::Error) -> Option<Kind> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Problem>())
        .map(|problem| problem.kind)
}
